//! Work on a runtime that the caller need not be part of.

use tokio::runtime::Handle;

use crate::error::FetchError;

#[cfg(feature = "registry")]
use tokio::task::JoinHandle;

/// A running task that ends when this is dropped.
#[cfg(feature = "registry")]
#[derive(Debug)]
pub(crate) struct AbortOnDrop<T>(JoinHandle<T>);

#[cfg(feature = "registry")]
impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(feature = "registry")]
impl<T: Send + 'static> AbortOnDrop<T> {
    pub(crate) fn spawn(
        runtime: &Handle,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        Self(runtime.spawn(future))
    }
}

/// Runs `future` on `runtime`, whatever executor polls the result; dropping the result aborts it.
#[cfg(feature = "registry")]
pub(crate) async fn run<T: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = Result<T, FetchError>> + Send + 'static,
) -> Result<T, FetchError> {
    let mut task = AbortOnDrop::spawn(runtime, future);
    joined((&mut task.0).await)
}

/// Runs `work` on the blocking pool of `runtime`. Dropping the result does not stop it.
pub(crate) async fn run_blocking<T: Send + 'static>(
    runtime: &Handle,
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    joined(runtime.spawn_blocking(work).await)
}

fn joined<T>(
    outcome: Result<Result<T, FetchError>, tokio::task::JoinError>,
) -> Result<T, FetchError> {
    match outcome {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(FetchError::Shutdown),
        },
    }
}
