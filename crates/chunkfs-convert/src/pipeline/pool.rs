//! The queue between the readers of layers and the workers that compress.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use chunkfs_format::ChunkEncoder;

use super::context::Context;
use super::lock;
use super::output::LayerOutput;
use crate::error::{ConvertError, LayerError};

/// How many buffers are kept for reuse.
const BUFFERS_MAX: usize = 32;

/// An uncompressed chunk on its way to a worker.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) output: Arc<LayerOutput>,
    /// The position among the layer's chunks, repeated ones included.
    pub(crate) ordinal: u32,
    /// Which of the layer's lanes of blobs takes it; see [`super::blobs`].
    pub(crate) lane: usize,
    pub(crate) uncompressed: Vec<u8>,
}

/// A queue that is bounded by the uncompressed bytes between reader and blob.
///
/// A chunk counts from when it is queued until it is appended to its blob. Chunks of a layer are
/// queued in order, so the one that the others of its layer wait for is always among those queued.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    in_flight_max: u64,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    buffers: Vec<Vec<u8>>,
    in_flight: u64,
    is_closed: bool,
    is_stopped: bool,
}

impl Pool {
    pub(crate) fn new(in_flight_max: u64) -> Self {
        let state = Mutex::default();
        Self { state, work: Condvar::new(), room: Condvar::new(), in_flight_max }
    }

    /// Queues a chunk once there is room.
    pub(crate) fn submit(&self, job: Job) -> Result<(), LayerError> {
        let len = job.uncompressed.len() as u64;
        let mut state = lock(&self.state);
        while !state.is_stopped && state.in_flight > 0 && state.in_flight + len > self.in_flight_max
        {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopped {
            return Err(LayerError::Stopped);
        }
        state.in_flight += len;
        state.jobs.push_back(job);
        self.work.notify_one();
        Ok(())
    }

    /// Takes the next chunk, or `None` when there will be no more.
    fn take(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.is_stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes room for what was appended to a blob.
    pub(crate) fn release(&self, len: u64) {
        let mut state = lock(&self.state);
        state.in_flight -= len;
        self.room.notify_all();
    }

    /// Returns a buffer whose content is arbitrary.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        lock(&self.state).buffers.pop().unwrap_or_default()
    }

    /// Keeps a buffer for reuse.
    pub(crate) fn recycle(&self, buffer: Vec<u8>) {
        let mut state = lock(&self.state);
        if state.buffers.len() < BUFFERS_MAX {
            state.buffers.push(buffer);
        }
    }

    /// Lets the workers end once the queue is empty.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.work.notify_all();
    }

    /// Lets everyone end now.
    pub(crate) fn stop(&self) {
        lock(&self.state).is_stopped = true;
        self.work.notify_all();
        self.room.notify_all();
    }
}

/// Hashes and compresses chunks until there are no more.
pub(crate) fn run_worker(context: &Context<'_>) -> Result<(), ConvertError> {
    let mut encoder = ChunkEncoder::new(context.options.level)?;
    while let Some(job) = context.pool.take() {
        let output = Arc::clone(&job.output);
        output.process(job, &mut encoder, context)?;
    }
    Ok(())
}
