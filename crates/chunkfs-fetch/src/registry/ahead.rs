//! Finding out where the blobs of an image are before anyone waits for them.

use std::sync::{Arc, Mutex, PoisonError};

use chunkfs_format::BlobId;
use futures::stream::{self, StreamExt as _};
use reqwest::StatusCode;

use super::blobs::BlobState;
use super::exchange::{Exchange, Outgoing, is_redirect};
use crate::source::Priority;
use crate::task::AbortOnDrop;
use reqwest::header::{HeaderValue, RANGE};

/// Of how many blobs of an image the locations are asked for ahead.
const BLOBS_MAX: usize = 256;
const CONCURRENT_MAX: usize = 8;

/// The blobs that a manifest named, until a redirect shows that their locations are worth asking for.
///
/// A registry that redirects does so for each blob, which costs the first reader of each a round
/// trip. A registry that serves blobs itself is asked nothing.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    expected: Vec<BlobId>,
    /// Ends with the source.
    task: Option<AbortOnDrop<()>>,
}

impl Ahead {
    /// Notes which blobs are going to be read.
    pub(super) fn expect(&self, blobs: impl Iterator<Item = BlobId>) {
        self.lock().expected = blobs.take(BLOBS_MAX).collect();
    }

    /// Begins to ask for locations, once for each call of [`expect`](Self::expect).
    pub(super) fn start(&self, exchange: &Arc<Exchange>, state: impl Fn(BlobId) -> Arc<BlobState>) {
        let mut inner = self.lock();
        if inner.expected.is_empty() {
            return;
        }
        let expected = std::mem::take(&mut inner.expected);
        let states: Vec<_> = expected.into_iter().map(|blob| (blob, state(blob))).collect();
        let exchange = Arc::clone(exchange);
        let runtime = exchange.options.runtime.clone();
        inner.task = Some(AbortOnDrop::spawn(&runtime, async move {
            let resolved = states.into_iter().map(|(blob, state)| {
                let exchange = Arc::clone(&exchange);
                async move { exchange.resolve(blob, &state).await }
            });
            stream::iter(resolved).buffer_unordered(CONCURRENT_MAX).for_each(|()| async {}).await;
        }));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// Asks the registry where a blob is. A failure is nobody's concern: its reader will ask again.
    async fn resolve(&self, blob: BlobId, state: &BlobState) {
        if state.has_location() {
            return;
        }
        let url = self.origin.blob_url(blob);
        let mut request = Outgoing::get(url, Priority::Prefetch);
        // One byte, in case the registry serves this blob itself.
        request.headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let Ok(answer) = self.send(&request).await else { return };
        if is_redirect(answer.status()) {
            if let Ok(location) = self.location(&answer)
                && !state.has_location()
            {
                self.counters.redirects.add(1);
                state.remember(&location, false);
            }
        } else if answer.status() == StatusCode::PARTIAL_CONTENT {
            answer.finish().await;
        }
    }
}
