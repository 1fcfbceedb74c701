//! Chance: what is broken, and how exactly.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::head::{RequestHead, ResponseHead};
use super::kind::FaultKind;
use super::options::{PARTS, ProxyOptions};
use super::{date, own};
use crate::fault::Fault;
use crate::random::Random;

/// Beyond this many different requests, the counts start anew.
const KEYS_MAX: usize = 1 << 20;
/// Where a fault may strike in a body of unknown length.
const LEN_ASSUMED: u64 = 1000;
/// How far a range whose end is open is moved or cut at most.
const SHIFT_MAX: u64 = 1 << 10;

/// How often each request was made: by method, path and range, so that the faults of a request do
/// not depend on what other connections ask for meanwhile.
#[derive(Debug, Default)]
pub(super) struct Draws(Mutex<HashMap<u64, u64>>);

/// A kind of fault that was drawn for a request, and the chance that is left for its details.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) kind: FaultKind,
    random: Random,
}

impl Draws {
    pub(super) fn draw(&self, request: &RequestHead, options: &ProxyOptions) -> Option<Drawn> {
        let range = request.fields.get("range").unwrap_or("");
        let key = hash([&request.method, &request.path, range]);
        let repetition = self.count(key);
        if !is_chosen(request, options) {
            return None;
        }
        let first = Random::new(options.seed ^ key).next_number();
        let mut random = Random::new(first.wrapping_add(repetition));
        let mut kinds = Vec::new();
        for kind in FaultKind::ALL {
            // Chance is asked whatever the answer is used for, so that one kind's probability does
            // not decide about another kind.
            let is_drawn = random.below(PARTS) < options.chances.get(&kind).copied().unwrap_or(0);
            if is_drawn && kind.applies(request, options.breaks_everything) {
                kinds.push(kind);
            }
        }
        let chosen = usize::try_from(random.below(kinds.len() as u64)).unwrap_or(0);
        kinds.get(chosen).map(|&kind| Drawn { kind, random })
    }

    fn count(&self, key: u64) -> u64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= KEYS_MAX {
            counts.clear();
        }
        let count = counts.entry(key).or_default();
        *count += 1;
        *count
    }
}

impl Drawn {
    /// Returns what happens before the upstream is asked, or instead.
    pub(super) fn before(&mut self, request: &RequestHead, host: &str) -> Option<Fault> {
        let status = |status, name: &str, value: String| {
            let headers = vec![(name.to_owned(), value)];
            Some(Fault::Status { status, headers })
        };
        let range_len = request.range.map_or(0, |(start, end)| end.saturating_sub(start));
        let step = range_len.saturating_sub(1).min(SHIFT_MAX);
        match self.kind {
            FaultKind::ThrottledSeconds => status(429, "Retry-After", "1".to_owned()),
            FaultKind::ThrottledDate => {
                let then = SystemTime::now() + Duration::from_secs(2);
                status(429, "Retry-After", date::http_date(then))
            }
            FaultKind::Throttled => Some(Fault::status(429)),
            FaultKind::InternalError => Some(Fault::status(500)),
            FaultKind::BadGateway => Some(Fault::status(502)),
            FaultKind::Unavailable => Some(Fault::status(503)),
            FaultKind::GatewayTimeout => Some(Fault::status(504)),
            FaultKind::Unauthorized => Some(Fault::status(401)),
            FaultKind::WrongChallenge => status(401, "WWW-Authenticate", own::challenge(host)),
            FaultKind::Forbidden => Some(Fault::status(403)),
            FaultKind::NotFound => Some(Fault::status(404)),
            FaultKind::BadRequest => Some(Fault::status(400)),
            FaultKind::Expired => {
                status(307, "Location", own::expired_url(host, self.random.next_number()))
            }
            FaultKind::NotSatisfiable => {
                status(416, "Content-Length", (1 + self.random.below(1 << 30)).to_string())
            }
            FaultKind::Close => Some(Fault::Close),
            FaultKind::StallHead => Some(Fault::StallHead),
            FaultKind::IgnoreRange => Some(Fault::IgnoreRange),
            FaultKind::ShortRange => {
                let len = match request.range {
                    Some((_, u64::MAX)) => SHIFT_MAX,
                    _ => range_len.saturating_sub(1),
                };
                Some(Fault::ShortRange { len: 1 + self.random.below(len) })
            }
            FaultKind::ShiftedRange => {
                Some(Fault::ShiftedRange { by: 1 + self.random.below(step) })
            }
            _ => None,
        }
    }

    /// Changes the head of the upstream's answer and returns what happens to the body; `None` if
    /// the answer is not one that this fault can break. `before` is what happened to the request.
    pub(super) fn after(
        &mut self,
        response: &mut ResponseHead,
        before: Option<Fault>,
        options: &ProxyOptions,
    ) -> Option<Fault> {
        let is_empty = response.body_len() == Some(0);
        let len = response.body_len().unwrap_or(LEN_ASSUMED);
        match self.kind {
            FaultKind::IgnoreRange => before.filter(|_| response.status == 200),
            FaultKind::ShortRange | FaultKind::ShiftedRange => {
                before.filter(|_| response.status == 206)
            }
            FaultKind::NoTotal => {
                response.claim_len(|_| None).map(|()| Fault::ClaimedLen { len: None })
            }
            FaultKind::WrongTotal => {
                let excess = 1 + self.random.below(LEN_ASSUMED);
                let mut claimed = None;
                response.claim_len(|len| {
                    claimed = len.checked_add(excess);
                    claimed
                })?;
                Some(Fault::ClaimedLen { len: claimed })
            }
            _ if is_empty => None,
            FaultKind::Cut => Some(Fault::CutBody { after: self.random.below(len) }),
            FaultKind::Reset => Some(Fault::Reset { after: self.random.below(len) }),
            FaultKind::Stall => Some(Fault::Stall { after: self.random.below(len) }),
            FaultKind::Drip => {
                let (piece_len, pause) = options.drip;
                Some(Fault::Drip { piece_len, pause })
            }
            FaultKind::FlipBit => {
                Some(Fault::FlipBit { bit: self.random.below(len.saturating_mul(8)) })
            }
            FaultKind::Gzip if response.fields.get("content-encoding").is_none() => {
                response.fields.set("Content-Encoding", "gzip".to_owned());
                Some(Fault::ContentEncoding("gzip".to_owned()))
            }
            _ => None,
        }
    }
}

fn is_chosen(request: &RequestHead, options: &ProxyOptions) -> bool {
    options.only_path.as_ref().is_none_or(|text| request.path.contains(text))
        && options.only_method.as_ref().is_none_or(|method| *method == request.method)
}

/// FNV-1a, with a separator between the parts.
fn hash(parts: [&str; 3]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
