//! Random faults of all kinds, as a bad day brings them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, ImageSource as _, ManifestSelector, Priority, StaticCredentials,
};
use chunkfs_format::BlobId;
use chunkfs_testkit::{Authorization, Fault, Random, RangeServer, Redirect};
use futures::stream::{self, StreamExt as _};

use crate::support::{REPOSITORY, add, options, source_with};

const CHUNK_LEN: u64 = 1024;

fn fault(random: &mut Random) -> Fault {
    match random.below(22) {
        0 => Fault::status(429),
        1 => Fault::status(500),
        2 => Fault::status(502),
        3 => Fault::retry_after(503, "0"),
        4 => Fault::retry_after(503, "Sun, 06 Nov 1994 08:49:37 GMT"),
        5 => Fault::Close,
        6 => Fault::Reset { after: random.below(1200) },
        7 => Fault::CutBody { after: random.below(1200) },
        8 => Fault::Stall { after: random.below(1200) },
        9 => Fault::StallHead,
        10 => Fault::IgnoreRange,
        11 => Fault::ShortRange { len: 1 + random.below(1000) },
        12 => Fault::FlipBit { bit: random.below(8000) },
        13 => Fault::status(400),
        14 => Fault::status(401),
        15 => Fault::status(403),
        16 => Fault::status(404),
        17 => Fault::status(416),
        18 => Fault::status(521),
        19 => Fault::ContentEncoding("gzip".to_owned()),
        20 => Fault::ShiftedRange { by: 1 + random.below(100) },
        _ => Fault::Drip { piece_len: 10, pause: Duration::from_millis(40) },
    }
}

fn seed() -> u64 {
    let given = std::env::var("CHUNKFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("CHUNKFS_TEST_SEED={seed} replays this");
    seed
}

/// Reads a chunk as a cache does: verified, and again from elsewhere while it is damaged.
async fn read_chunk(source: &dyn BlobSource, blob: &BlobDescriptor, start: u64, expected: &Bytes) {
    let range = start..(start + CHUNK_LEN).min(blob.len);
    let expected =
        expected.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
    let id = BlobId::of(&expected);
    let priority = if start.is_multiple_of(3) { Priority::Prefetch } else { Priority::Demand };
    let mut bytes = source.read_range(blob, range.clone(), priority).await.unwrap();
    let mut damaged_count = std::num::NonZeroU32::MIN;
    while BlobId::of(&bytes) != id {
        let again = source.reread_range(blob, range.clone(), priority, damaged_count).await;
        damaged_count = damaged_count.saturating_add(1);
        bytes = again.unwrap().expect("what is read again is not damaged four times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_image_is_read_through_every_fault_at_five_percent() {
    let seed = seed();
    let (registry, storage) = (RangeServer::start().await, RangeServer::start().await);
    let blobs: Vec<_> = [200_000, 123_457, 4096, 1].map(|len| add(&registry, len)).into();
    registry.set_authorization(Authorization::Bearer {
        expires_in: Some(1),
        encoded: Some("dXNlcjpwYXNzd29yZA==".to_owned()),
        refresh_token: None,
    });
    let mut redirect = Redirect::default();
    redirect.uses = Some(40);
    registry.redirect_blobs_to(&storage, redirect);
    let credential = chunkfs_fetch::Credential::password("user", "password");
    let options = options()
        .with_credentials(std::sync::Arc::new(StaticCredentials::new(credential)))
        .with_progress_timeout(Duration::from_millis(400))
        .with_hedge_after(Some(Duration::from_millis(150)))
        .with_retries_max(8);
    let source = source_with(&registry, options);
    let manifest = registry.add_manifest(REPOSITORY, "v1", "application/json", "{}".into());
    source.fetch_manifest(&ManifestSelector::Digest(manifest)).await.unwrap();
    for (server, salt) in [(&registry, 0), (&storage, 1)] {
        let random = Mutex::new(Random::new(seed ^ salt));
        server.set_script(move |_| {
            let mut random = random.lock().unwrap();
            if random.below(20) == 0 { vec![fault(&mut random)] } else { Vec::new() }
        });
    }
    let chunks = blobs.iter().flat_map(|(blob, content)| {
        let starts = (0..blob.len).step_by(usize::try_from(CHUNK_LEN).unwrap());
        starts.map(move |start| (blob, content, start))
    });
    stream::iter(chunks)
        .map(|(blob, content, start)| read_chunk(&source, blob, start, content))
        .buffer_unordered(12)
        .for_each(|()| async {})
        .await;
    let counters = source.counters();
    println!("{counters:?}");
    assert!(counters.token_requests < 40, "{counters:?}");
    let chunk_count: u64 = blobs.iter().map(|(blob, _)| blob.len.div_ceil(CHUNK_LEN)).sum();
    let requests = storage.requests().len() as u64;
    assert!(requests < chunk_count * 2, "{requests} requests for {chunk_count} chunks");
}
