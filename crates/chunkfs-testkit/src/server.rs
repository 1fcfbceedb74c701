//! The server itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chunkfs_format::BlobId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::answer::{Answer, Ending};
use crate::authorization::{Authorization, Tokens};
use crate::content::Content;
use crate::fault::Fault;
use crate::http::{self, Request};
use crate::log::LoggedRequest;
use crate::routes;

/// An HTTP/1.1 server on loopback with blobs and manifests in memory.
///
/// It speaks the OCI distribution protocol as far as a client needs it to push and pull. It stops
/// when this value is dropped.
pub struct RangeServer {
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// Where blob reads are sent by [`RangeServer::redirect_blobs_to`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redirect {
    /// How many reads one signed URL allows; `None` for any number.
    pub uses: Option<u64>,
    /// How many more redirects there are between the first and the storage.
    pub hop_count: u32,
    /// Whether the `Location` has no scheme and host, so that it means this server.
    pub is_relative: bool,
    /// Text added to the query, for example `&X-Amz-Expires=1`.
    pub query_suffix: String,
}

type Script = dyn Fn(&LoggedRequest) -> Vec<Fault> + Send + Sync;

/// What the connections share.
pub(crate) struct State {
    address: SocketAddr,
    url: String,
    content: Arc<Mutex<Content>>,
    tokens: Mutex<Tokens>,
    settings: Mutex<Settings>,
    log: Mutex<Vec<LoggedRequest>>,
}

#[derive(Default)]
struct Settings {
    authorization: Authorization,
    redirect: Option<(String, Arc<Mutex<Content>>, Redirect)>,
    queue: VecDeque<Vec<Fault>>,
    script: Option<Arc<Script>>,
    delay: Duration,
}

impl RangeServer {
    /// Starts a server on a free port of 127.0.0.1, on the current tokio runtime.
    ///
    /// # Panics
    /// Panics if no port can be bound, or outside of a runtime.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            address,
            url: format!("http://{address}"),
            content: Arc::default(),
            tokens: Mutex::default(),
            settings: Mutex::default(),
            log: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { state, task }
    }

    /// Returns the address, which is also how a registry reference names the server.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// Returns `http://ADDRESS`.
    pub fn url(&self) -> String {
        self.state.url.clone()
    }

    /// Adds a blob to a repository.
    pub fn add_blob(&self, repository: &str, bytes: Bytes) -> BlobId {
        self.state.content().add_blob(repository, bytes)
    }

    /// Returns a blob of a repository.
    pub fn blob(&self, repository: &str, id: BlobId) -> Option<Bytes> {
        self.state.content().blob(repository, id)
    }

    /// Removes a blob from a repository and returns whether it was there.
    pub fn remove_blob(&self, repository: &str, id: BlobId) -> bool {
        self.state.content().remove_blob(repository, id)
    }

    /// Returns a plain file by its path, which begins with `/files/`.
    pub fn file(&self, path: &str) -> Option<Bytes> {
        self.state.content().file(path)
    }

    /// Adds a manifest under a tag (or digest) and under its digest.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> BlobId {
        self.state.content().add_manifest(repository, tag, media_type, bytes)
    }

    /// Returns the media type and content of a manifest by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Bytes)> {
        self.state.content().manifest(repository, reference)
    }

    /// Demands this authorization from now on.
    pub fn set_authorization(&self, authorization: Authorization) {
        self.state.settings().authorization = authorization;
    }

    /// Makes all tokens invalid that were issued so far.
    pub fn expire_tokens(&self) {
        self.state.tokens().expire();
    }

    /// Answers blob reads with a redirect to a signed URL on `storage` from now on.
    pub fn redirect_blobs_to(&self, storage: &RangeServer, redirect: Redirect) {
        let content = Arc::clone(&storage.state.content);
        self.state.settings().redirect = Some((storage.url(), content, redirect));
    }

    /// Makes all signed URLs invalid that lead to this server.
    pub fn expire_signatures(&self) {
        self.state.content().expire_signatures();
    }

    /// Adds a fault to the queue: each blob GET that reaches content takes one entry.
    pub fn push_fault(&self, fault: Fault) {
        self.push_faults(vec![fault]);
    }

    /// Adds a combination of faults, for one blob GET, to the queue; none means a right answer.
    pub fn push_faults(&self, faults: Vec<Fault>) {
        self.state.settings().queue.push_back(faults);
    }

    /// Asks `script` for the faults of every request for which the queue has none.
    pub fn set_script(
        &self,
        script: impl Fn(&LoggedRequest) -> Vec<Fault> + Send + Sync + 'static,
    ) {
        self.state.settings().script = Some(Arc::new(script));
    }

    /// Waits this long before each answer from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.state.settings().delay = delay;
    }

    /// Returns all requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.state.log().clone()
    }

    /// Returns how many bytes of bodies were sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.state.log().iter().map(|request| request.bytes_sent).sum()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.state.log().clear();
    }
}

impl Drop for RangeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for RangeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeServer").field("address", &self.state.address).finish()
    }
}

impl State {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        lock(&self.content)
    }

    pub(crate) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        lock(&self.tokens)
    }

    pub(crate) fn authorization(&self) -> Authorization {
        self.settings().authorization.clone()
    }

    /// Signs a blob and returns where a read of it shall go, if reads are redirected.
    pub(crate) fn redirect_location(&self, digest: &str, content: &Bytes) -> Option<String> {
        let (url, storage, redirect) = self.settings().redirect.clone()?;
        let signature = lock(&storage).sign(content.clone(), redirect.uses);
        let url = if redirect.is_relative { "" } else { &url };
        let hops = match redirect.hop_count {
            0 => String::new(),
            count => format!("/hop/{count}"),
        };
        let suffix = &redirect.query_suffix;
        Some(format!("{url}{hops}/storage/{digest}?X-Signature={signature}{suffix}"))
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    fn log(&self) -> MutexGuard<'_, Vec<LoggedRequest>> {
        lock(&self.log)
    }

    fn faults(&self, request: &LoggedRequest) -> Vec<Fault> {
        let mut settings = self.settings();
        let is_redirected = settings.redirect.is_some() && request.path.starts_with("/v2/");
        let takes_queue =
            request.is_blob_read() && !is_redirected && !request.path.starts_with("/hop/");
        let queued = if takes_queue { settings.queue.pop_front() } else { None };
        let script = settings.script.clone();
        drop(settings);
        queued.or_else(|| script.map(|script| script(request))).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections end with this task, because it owns them.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&state)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        match http::read_request(&mut stream, &mut buffer).await {
            Ok(Some(request)) => match respond(&mut stream, &state, &request).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            },
            Ok(None) => return,
            Err(_) => {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                return;
            }
        }
    }
}

/// Answers one request and returns whether the connection can be used again.
async fn respond(stream: &mut TcpStream, state: &State, request: &Request) -> io::Result<bool> {
    let logged = LoggedRequest {
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        range: request.header("range").map(str::to_owned),
        cache_control: request.header("cache-control").map(str::to_owned),
        had_authorization: request.header("authorization").is_some(),
        status: 0,
        bytes_sent: 0,
        bytes_received: request.body.len() as u64,
    };
    let faults = state.faults(&logged);
    let number = {
        let mut log = state.log();
        log.push(logged);
        log.len() - 1
    };
    let delay = state.settings().delay;
    tokio::time::sleep(delay).await;
    if faults.contains(&Fault::StallHead) {
        std::future::pending::<()>().await;
    }
    if faults.contains(&Fault::Close) {
        return Ok(false);
    }
    let forced = faults.iter().find_map(|fault| match fault {
        Fault::Status { status, headers } => Some((*status, headers.clone())),
        _ => None,
    });
    let mut answer = match forced {
        Some((status, headers)) => Answer { headers, ..Answer::new(status) },
        None => routes::answer(state, request, &faults),
    };
    answer.apply(&faults);
    note(state, number, |request| request.status = answer.status);
    stream.write_all(answer.head().as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    send_body(stream, state, number, &answer).await
}

async fn send_body(
    stream: &mut TcpStream,
    state: &State,
    number: usize,
    answer: &Answer,
) -> io::Result<bool> {
    let limit = match answer.ending {
        Ending::Whole | Ending::Drip { .. } => answer.body.len(),
        Ending::CutAfter(after) | Ending::ResetAfter(after) | Ending::StallAfter(after) => {
            usize::try_from(after).unwrap_or(usize::MAX).min(answer.body.len())
        }
    };
    let (piece_len, pause) = match answer.ending {
        Ending::Drip { piece_len, pause } => (usize::try_from(piece_len).unwrap_or(1), pause),
        _ => (64 << 10, Duration::ZERO),
    };
    for piece in answer.body[..limit].chunks(piece_len) {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        stream.write_all(piece).await?;
        note(state, number, |request| request.bytes_sent += piece.len() as u64);
    }
    stream.flush().await?;
    match answer.ending {
        Ending::Whole | Ending::Drip { .. } => Ok(true),
        Ending::CutAfter(_) => Ok(false),
        Ending::ResetAfter(_) => {
            // Closing with nothing left to linger for sends RST.
            stream.set_zero_linger()?;
            Ok(false)
        }
        Ending::StallAfter(_) => std::future::pending().await,
    }
}

/// Changes a log entry, unless the log was cleared meanwhile.
fn note(state: &State, number: usize, change: impl FnOnce(&mut LoggedRequest)) {
    if let Some(request) = state.log().get_mut(number) {
        change(request);
    }
}
