//! How a proxy behaves.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::head::ResponseHead;
use super::kind::FaultKind;

/// A chance of one, in parts.
pub(super) const PARTS: u64 = 1_000_000;

/// What a [`FaultProxy`](crate::FaultProxy) stands before, and what it breaks how often.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    pub(super) upstream: String,
    pub(super) listen: SocketAddr,
    pub(super) seed: u64,
    pub(super) chances: BTreeMap<FaultKind, u64>,
    pub(super) only_path: Option<String>,
    pub(super) only_method: Option<String>,
    pub(super) breaks_everything: bool,
    pub(super) streams_max: usize,
    pub(super) host: Option<String>,
    pub(super) rewrites: Vec<(String, String)>,
    pub(super) hold: Duration,
    pub(super) drip: (u64, Duration),
}

impl ProxyOptions {
    /// Options for a proxy before `upstream` (`HOST:PORT`, plain HTTP) that breaks nothing.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            seed: 0,
            chances: BTreeMap::new(),
            only_path: None,
            only_method: None,
            breaks_everything: false,
            streams_max: 256,
            host: None,
            rewrites: Vec::new(),
            hold: Duration::from_secs(120),
            drip: (100, Duration::from_millis(200)),
        }
    }

    /// Stands before another server.
    pub fn with_upstream(mut self, upstream: impl Into<String>) -> Self {
        self.upstream = upstream.into();
        self
    }

    /// Sets where to listen; the default is a free port of 127.0.0.1.
    pub fn with_listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// Sets what all chance comes from; the default is 0.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets how probable every kind of fault is for a request that it can happen to, from 0 to 100.
    ///
    /// Chance is asked about each kind; of several that it names, it picks one.
    pub fn with_percent(mut self, percent: f64) -> Self {
        self.chances = FaultKind::ALL.into_iter().map(|kind| (kind, parts(percent))).collect();
        self
    }

    /// Sets how probable it is, from 0 to 100, that a request that all kinds of fault can happen to
    /// meets one; all kinds are equally probable.
    pub fn with_share_percent(self, percent: f64) -> Self {
        let kinds_count = FaultKind::ALL.len() as f64;
        let spared = (1.0 - percent.clamp(0.0, 100.0) / 100.0).powf(1.0 / kinds_count);
        self.with_percent(100.0 * (1.0 - spared))
    }

    /// As [`with_percent`](Self::with_percent), for one kind.
    pub fn with_kind_percent(mut self, kind: FaultKind, percent: f64) -> Self {
        self.chances.insert(kind, parts(percent));
        self
    }

    /// Breaks only requests whose path holds this text.
    pub fn with_only_path(mut self, text: impl Into<String>) -> Self {
        self.only_path = Some(text.into());
        self
    }

    /// Breaks only requests with this method.
    pub fn with_only_method(mut self, method: impl Into<String>) -> Self {
        self.only_method = Some(method.into());
        self
    }

    /// Sets whether all requests can meet all faults. By default only GETs are broken, and refused
    /// (400, 401, 403, 404, an expired signature) only if they read blobs.
    pub fn with_everything(mut self, breaks_everything: bool) -> Self {
        self.breaks_everything = breaks_everything;
        self
    }

    /// Sets how many requests are answered at once (256; at least 1 is used); others wait.
    pub fn with_streams_max(mut self, streams_max: usize) -> Self {
        self.streams_max = streams_max.max(1);
        self
    }

    /// Sends this `Host` upstream. By default the client's is sent, which a signature may cover.
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Rewrites a `Location` or a realm on the host `from` to the host `to`, for another proxy there.
    ///
    /// Those on the upstream itself always lead back to this proxy.
    pub fn with_rewrite(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.rewrites.push((from.into(), to.into()));
        self
    }

    /// Sets for how long a stall lasts (120 s), after which the connection is closed.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets how slow a drip is: the bytes of a piece and the pause before each (100 in 200 ms).
    pub fn with_drip(mut self, piece_len: u64, pause: Duration) -> Self {
        self.drip = (piece_len.max(1), pause);
        self
    }

    /// Makes the places that an answer names lead through this proxy, or another one.
    ///
    /// `host` is how the client called this proxy.
    pub(super) fn rewrite(&self, response: &mut ResponseHead, host: &str) {
        let own = [Some(&self.upstream), self.host.as_ref()].into_iter().flatten();
        let own = own.map(|from| (from.as_str(), host));
        let given = self.rewrites.iter().map(|(from, to)| (from.as_str(), to.as_str()));
        for (from, to) in given.chain(own) {
            let (from, to) = (format!("http://{from}/"), format!("http://{to}/"));
            if let Some(location) = response.fields.get("location")
                && let Some(path) = location.strip_prefix(&from)
            {
                let location = format!("{to}{path}");
                response.fields.set("Location", location);
                return;
            }
            if let Some(challenge) = response.fields.get("www-authenticate") {
                let challenge = challenge.replace(&from, &to);
                response.fields.set("WWW-Authenticate", challenge);
            }
        }
    }
}

fn parts(percent: f64) -> u64 {
    // The value is within 0..=PARTS, and a fraction of a part does not matter.
    (percent.clamp(0.0, 100.0) * 10_000.0).round() as u64
}
