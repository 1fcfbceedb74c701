//! When something is tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::ObjectStore;

use super::source::Objects;
use crate::error::FetchError;
use crate::registry::patience::Patience;
use crate::source::Priority;

/// How much failure one operation still tolerates.
pub(super) struct Tries<'a> {
    objects: &'a Objects,
    patience: Patience,
}

impl<'a> Tries<'a> {
    pub(super) fn new(objects: &'a Objects, priority: Priority) -> Self {
        let retries_max = objects.options.retries_max;
        let patience = Patience::of_object(retries_max, objects.options.backoff, priority);
        Self { objects, patience }
    }

    /// Notes that the store answered as it should.
    pub(super) fn succeeded(&self) {
        self.objects.has_served.store(true, Ordering::Relaxed);
    }

    /// Waits before the next try, or returns the error if there is to be none.
    ///
    /// `store` is what failed. After a refusal the next try uses new credentials, if there are any.
    pub(super) async fn after(
        &mut self,
        error: FetchError,
        store: &Arc<dyn ObjectStore>,
        has_progressed: bool,
    ) -> Result<(), FetchError> {
        if !self.is_doubtful(&error) {
            self.patience.after(error, has_progressed).await?;
        } else if is_about_keys(&error) {
            // Keys that are being replaced: a demand read waits for the new ones.
            self.objects.store.renew(store, &self.objects.options.runtime).await;
            self.patience.again(error).await?;
        } else {
            if is_refusal(&error) {
                self.objects.store.renew(store, &self.objects.options.runtime).await;
            }
            self.patience.doubt(error, true).await?;
        }
        self.objects.counters.retries.add(1);
        Ok(())
    }

    /// Returns whether an error that looks final may pass: the answer belongs to something else, or
    /// the store has served this layout before.
    fn is_doubtful(&self, error: &FetchError) -> bool {
        match error {
            FetchError::LenMismatch { .. } | FetchError::RangeMismatch { .. } => true,
            FetchError::NotFound { .. } | FetchError::Status { status: 416, .. } => {
                self.objects.has_served.load(Ordering::Relaxed)
            }
            error => is_refusal(error) && self.objects.has_served.load(Ordering::Relaxed),
        }
    }
}

/// Returns whether a refusal says that the keys do not work, and not what they may do: S3 answers 403 for
/// what is not there, too.
fn is_about_keys(error: &FetchError) -> bool {
    const CODES: [&str; 6] = [
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthenticationFailed",
    ];
    match error {
        FetchError::Unauthorized { .. } => true,
        FetchError::Forbidden { what, .. } => CODES.iter().any(|code| what.contains(code)),
        _ => false,
    }
}

fn is_refusal(error: &FetchError) -> bool {
    matches!(error, FetchError::Forbidden { .. } | FetchError::Unauthorized { .. })
}
