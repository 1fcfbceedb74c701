//! Paths that a proxy answers itself: where its redirects and challenges lead.

const EXPIRED: &str = "/.fault-proxy/expired";
const REALM: &str = "/.fault-proxy/token";

/// Returns a URL on this proxy whose signature has expired.
pub(super) fn expired_url(host: &str, signature: u64) -> String {
    format!("http://{host}{EXPIRED}?X-Amz-Expires=1&X-Amz-Signature={signature:016x}")
}

/// Returns a challenge that names a token endpoint which is not there.
pub(super) fn challenge(host: &str) -> String {
    format!(r#"Bearer realm="http://{host}{REALM}",service="nobody",scope="repository:none:pull""#)
}

/// Returns the answer of a path of this proxy, or `None` if it is the upstream's.
pub(super) fn status(path: &str) -> Option<u16> {
    match path {
        EXPIRED => Some(403),
        REALM => Some(404),
        _ => None,
    }
}
