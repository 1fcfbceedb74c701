//! What was asked for.

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// The method.
    pub method: String,
    /// The path without the query string.
    pub path: String,
    /// The query string without the `?`, empty if there is none.
    pub query: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Cache-Control` header.
    pub cache_control: Option<String>,
    /// Whether the request had an `Authorization` header.
    pub had_authorization: bool,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// How many bytes of the answer's body were written to the socket.
    pub bytes_sent: u64,
    /// How many bytes of body the request had.
    pub bytes_received: u64,
}

impl LoggedRequest {
    /// Returns whether this reads a blob, from the registry or from redirected storage.
    pub fn is_blob_read(&self) -> bool {
        self.method == "GET" && is_blob_path(&self.path)
    }
}

/// Returns whether a blob is read by this path, in a registry, a layout or redirected storage.
pub(crate) fn is_blob_path(path: &str) -> bool {
    path.starts_with("/storage/")
        || path.starts_with("/hop/")
        || path.contains("/blobs/sha256:")
        || path.contains("/blobs/sha256/")
}
