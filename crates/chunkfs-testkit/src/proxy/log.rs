//! What went through a proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::head::RequestHead;
use super::kind::FaultKind;

/// Requests beyond this many are only counted.
const REQUESTS_MAX: usize = 100_000;

/// A request as a proxy saw and answered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedRequest {
    /// The method.
    pub method: String,
    /// The path without the query string.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The status that the client got; 0 if there was none.
    pub status: u16,
    /// What was broken.
    pub fault: Option<FaultKind>,
    /// How many bytes of the answer's body were written to the client.
    pub bytes_sent: u64,
}

impl ProxiedRequest {
    /// Returns one JSON object, on one line.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "method": self.method,
            "path": self.path,
            "range": self.range,
            "status": self.status,
            "fault": self.fault.map(FaultKind::name),
            "bytes_sent": self.bytes_sent,
        })
        .to_string()
    }
}

/// Sums over all requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyTotals {
    /// How many requests came.
    pub requests: u64,
    /// How many bytes of bodies were sent.
    pub bytes_sent: u64,
    /// How many requests were broken, by fault.
    pub faults: BTreeMap<FaultKind, u64>,
    /// How many answers had which status.
    pub statuses: BTreeMap<u16, u64>,
}

impl fmt::Display for ProxyTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken: u64 = self.faults.values().sum();
        write!(f, "{} requests, {broken} broken, {} bytes", self.requests, self.bytes_sent)?;
        f.write_str("\nstatuses:")?;
        self.statuses.iter().try_for_each(|(status, count)| write!(f, " {status}={count}"))?;
        f.write_str("\nfaults:")?;
        self.faults.iter().try_for_each(|(fault, count)| write!(f, " {fault}={count}"))
    }
}

#[derive(Debug, Default)]
pub(super) struct Log(Mutex<(Vec<ProxiedRequest>, ProxyTotals)>);

impl Log {
    pub(super) fn requests(&self) -> Vec<ProxiedRequest> {
        self.lock().0.clone()
    }

    pub(super) fn totals(&self) -> ProxyTotals {
        self.lock().1.clone()
    }

    /// Notes that a request has come.
    pub(super) fn enter(&self, request: &RequestHead) -> Entry<'_> {
        let mut log = self.lock();
        log.1.requests += 1;
        let number = log.0.len();
        if number < REQUESTS_MAX {
            log.0.push(ProxiedRequest {
                method: request.method.clone(),
                path: request.path.clone(),
                range: request.fields.get("range").map(str::to_owned),
                status: 0,
                fault: None,
                bytes_sent: 0,
            });
        }
        Entry { log: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<ProxiedRequest>, ProxyTotals)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in the log.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    log: &'a Log,
    number: usize,
}

impl Entry<'_> {
    pub(super) fn broken(&self, fault: FaultKind) {
        self.note(
            |totals| *totals.faults.entry(fault).or_default() += 1,
            |request| request.fault = Some(fault),
        );
    }

    pub(super) fn answered(&self, status: u16) {
        self.note(
            |totals| *totals.statuses.entry(status).or_default() += 1,
            |request| request.status = status,
        );
    }

    pub(super) fn sent(&self, len: usize) {
        let len = len as u64;
        self.note(|totals| totals.bytes_sent += len, |request| request.bytes_sent += len);
    }

    fn note(&self, add: impl FnOnce(&mut ProxyTotals), change: impl FnOnce(&mut ProxiedRequest)) {
        let mut log = self.log.lock();
        let (requests, totals) = &mut *log;
        add(totals);
        if let Some(request) = requests.get_mut(self.number) {
            change(request);
        }
    }
}
