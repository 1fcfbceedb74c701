//! Sources that fail.

use std::fs;
use std::sync::{Arc, Mutex};

use chunkfs_fuse::MountOptions;
use rustix::io::Errno;

use crate::support::{CHUNK, Fault, Part, TestImage, noise};

#[test]
fn a_broken_chunk_is_an_error_until_it_is_mended() {
    for fault in [Fault::Missing, Fault::Corrupt] {
        let mut image = TestImage::new();
        let (good, bad) = (noise(1, CHUNK), noise(2, CHUNK));
        image.file(b"good", vec![Part::Data(good.clone())]);
        image.file(b"bad", vec![Part::Data(bad.clone())]);
        let messages = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&messages);
        let options = MountOptions::default().with_read_error_observer(move |error| {
            log.lock().unwrap().push(error.to_string());
        });
        let Some(served) = image.serve_with(options) else { return };
        served.source.break_chunk(&bad, fault);
        for _ in 0..2 {
            let error = fs::read(served.path("bad")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{fault:?}");
            assert!(fs::read(served.path("good")).unwrap() == good);
        }
        assert!(served.mount.counters().read_errors >= 2);
        let messages = messages.lock().unwrap().clone();
        assert_eq!(messages.len() as u64, served.mount.counters().read_errors);
        assert!(messages.iter().all(|message| message.contains("cannot be read")), "{messages:?}");
        served.source.mend_all();
        assert!(fs::read(served.path("bad")).unwrap() == bad, "{fault:?}");
    }
}
