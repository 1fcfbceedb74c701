//! A reverse proxy that breaks what passes through it.

mod body;
mod date;
mod draw;
mod exchange;
mod head;
mod kind;
mod log;
mod options;
mod own;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use exchange::Shared;
pub use kind::FaultKind;
pub use log::{ProxiedRequest, ProxyTotals};
pub use options::ProxyOptions;

/// Connections beyond this many wait.
const CONNECTIONS_MAX: usize = 1024;

/// An HTTP/1.1 reverse proxy that stands before a real server and breaks some of its answers.
///
/// What it breaks is up to chance, which comes from a seed: the same seed and the same requests
/// bring the same faults, and the n-th time that something is asked for always meets the same one,
/// whatever else is asked for meanwhile. Bodies pass through in pieces. It stops when this value is
/// dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy on the current tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the address that was asked for cannot be bound.
    ///
    /// # Panics
    /// Panics outside of a runtime.
    pub async fn start(options: ProxyOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            log: Default::default(),
            draws: Default::default(),
            streams: Semaphore::new(options.streams_max.min(Semaphore::MAX_PERMITS)),
            options,
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// Returns the address, which is also how a registry reference names the proxy.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Returns `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Returns the first 100,000 requests, in the order in which they arrived.
    pub fn requests(&self) -> Vec<ProxiedRequest> {
        self.shared.log.requests()
    }

    /// Returns sums over all requests.
    pub fn totals(&self) -> ProxyTotals {
        self.shared.log.totals()
    }

    /// Closes the listener and all connections, and waits until that is done.
    pub async fn stop(mut self) {
        self.task.abort();
        // The only error is that it was aborted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("address", &self.shared.address).finish()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with this task, because it owns them.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(exchange::serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
