//! Progress bars on a terminal, plain lines otherwise; all on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;

use chunkfs_convert::{BlobTransfer, ConvertEvent, ConvertObserver};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::output::counted;

const LAYER_TEMPLATE: &str =
    "{prefix:>9} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}";

/// Shows the progress of a conversion: one bar for each layer.
#[derive(Debug)]
pub(crate) struct ConvertProgress {
    is_terminal: bool,
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    layers: Vec<Layer>,
    pushed_len: u64,
}

#[derive(Debug)]
struct Layer {
    len: Option<u64>,
    bar: Option<ProgressBar>,
}

impl ConvertProgress {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            state: Mutex::default(),
        }
    }

    /// Removes the bars, so that what is printed next stands alone.
    pub(crate) fn finish(&self) {
        // The terminal may be gone; then there is nothing to remove.
        let _ = self.bars.clear();
    }

    fn layer_bar(&self, number: usize, len: Option<u64>) -> Option<ProgressBar> {
        if !self.is_terminal {
            return None;
        }
        let style = ProgressStyle::with_template(LAYER_TEMPLATE).ok()?;
        let bar = ProgressBar::new(len.unwrap_or(0)).with_style(style);
        Some(self.bars.add(bar.with_prefix(format!("layer {number}"))))
    }

    fn say(&self, line: &str) {
        if !self.is_terminal {
            plain_line(line);
        }
    }
}

/// Writes a line to standard error, which may have no reader.
pub(crate) fn plain_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

impl ConvertObserver for ConvertProgress {
    fn observe(&self, event: &ConvertEvent) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            ConvertEvent::Planned { layer_lens } => {
                let layer = |(number, len): (usize, &Option<u64>)| Layer {
                    len: *len,
                    bar: self.layer_bar(number, *len),
                };
                state.layers = layer_lens.iter().enumerate().map(layer).collect();
                self.say(&format!("converting {}", counted(state.layers.len() as u64, "layer")));
            }
            ConvertEvent::LayerRead { layer, len } => {
                if let Some(bar) = state.layers.get(*layer).and_then(|layer| layer.bar.as_ref()) {
                    bar.inc(*len);
                }
            }
            ConvertEvent::LayerReused { layer } => {
                if let Some(bar) = state.layers.get(*layer).and_then(|layer| layer.bar.as_ref()) {
                    bar.finish_and_clear();
                }
                self.say(&format!("layer {layer}: reused"));
            }
            ConvertEvent::LayerFinished { layer } => {
                let Some(finished) = state.layers.get(*layer) else { return };
                if let Some(bar) = &finished.bar {
                    bar.finish();
                }
                let len = finished.len.map(|len| format!(", {}", HumanBytes(len)));
                self.say(&format!("layer {layer}: read{}", len.unwrap_or_default()));
            }
            ConvertEvent::BlobStored { len, how: BlobTransfer::Pushed, .. } => {
                state.pushed_len += len;
                self.say(&format!("stored {}", HumanBytes(state.pushed_len)));
            }
            _ => {}
        }
    }
}

/// A bar that counts chunks, or nothing where there is no terminal.
pub(crate) fn chunk_bar(chunk_count: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} chunks {per_sec} {eta}");
    ProgressBar::new(chunk_count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
