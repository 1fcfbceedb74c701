//! Real processes over one folder: this test binary starts itself again.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chunkfs_cache::{Cache, CacheOptions, VerifyLevel};
use chunkfs_fetch::Priority;
use chunkfs_format::DigestAlgorithm;

use crate::sim::Random;
use crate::support::{Fixture, options};

const COUNT: usize = 64;

fn fixture() -> Fixture {
    let mut random = Random(1);
    let content = |number: usize| {
        let mut bytes = vec![number as u8; 60_000 + number * 100];
        bytes.iter_mut().step_by(9).for_each(|byte| *byte = random.next() as u8);
        bytes
    };
    Fixture::of((0..COUNT).map(content).collect(), DigestAlgorithm::Blake3, &[])
}

fn folder_options(folder: &Path) -> CacheOptions {
    options().with_folder(folder).with_memory_len_max(0).with_reserve_len(0)
}

/// Starts a child that runs one of the ignored tests below in a folder.
fn start(name: &str, folder: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("processes::{name}"), "--ignored", "--nocapture"])
        .env("CHUNKFS_TEST_FOLDER", folder)
        .env("CHUNKFS_TEST_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn child() -> Option<(std::path::PathBuf, u64)> {
    let folder = std::env::var_os("CHUNKFS_TEST_FOLDER")?;
    Some((folder.into(), std::env::var("CHUNKFS_TEST_SEED").unwrap().parse().unwrap()))
}

/// Waits for a child and returns the number that it printed.
fn finish(child: Child) -> u64 {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.split_once("result ").map(|(_, number)| number));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// Loads everything once from four threads' worth of tasks and prints how much it fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a child of other tests"]
async fn child_loads_everything() {
    let Some((folder, _)) = child() else { return };
    let fixture = fixture();
    let cache = Cache::open(folder_options(&folder).with_lease_wait_max(Duration::from_secs(60)));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let loads = fixture.chunks.iter().map(|chunk| loader.load(chunk, Priority::Demand));
    for (bytes, content) in
        futures::future::join_all(loads).await.into_iter().zip(&fixture.contents)
    {
        assert!(bytes.unwrap() == content);
    }
    cache.flush().await;
    println!("result {}", cache.counters().demand_chunks);
}

#[test]
fn eight_processes_that_start_together_fetch_each_chunk_once() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> =
        (0..8).map(|seed| start("child_loads_everything", folder.path(), seed)).collect();
    let fetched: u64 = children.into_iter().map(finish).sum();
    assert_eq!(fetched, COUNT as u64);
}

/// Reads at random under a quota smaller than what is read, comparing everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a child of other tests"]
async fn child_reads_under_a_quota() {
    let Some((folder, seed)) = child() else { return };
    let fixture = std::sync::Arc::new(fixture());
    let cache = Cache::open(folder_options(&folder).with_quota_len(1_500_000));
    let tasks = (0..4).map(|task| {
        let (fixture, cache) = (std::sync::Arc::clone(&fixture), cache.clone());
        tokio::spawn(async move {
            let mut random = Random(seed * 10 + task);
            let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
            let loader = loader.with_chunk_count(COUNT as u32);
            for _ in 0..150 {
                let number = random.below(COUNT);
                let (chunk, content) = (&fixture.chunks[number], &fixture.contents[number]);
                let start = random.below(content.len());
                let mut part = vec![0; 1 + random.below(content.len() - start)];
                if !loader.read_cached(chunk, start as u64, &mut part) {
                    let bytes = loader.load(chunk, Priority::Demand).await.unwrap();
                    part = bytes[start..start + part.len()].to_vec();
                }
                assert!(part == content[start..start + part.len()], "chunk {number}");
            }
        })
    });
    futures::future::try_join_all(tasks).await.unwrap();
    cache.flush().await;
    assert_eq!(cache.counters().disk_verify_failures, 0, "nothing on disk was wrong");
    println!("result {}", cache.counters().disk_hits);
}

#[test]
fn eight_processes_of_four_tasks_share_a_quota_that_is_too_small() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> =
        (0..8).map(|seed| start("child_reads_under_a_quota", folder.path(), seed)).collect();
    let hits: Vec<_> = children.into_iter().map(finish).collect();
    assert!(hits.iter().all(|hits| *hits > 0), "{hits:?}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let cache = Cache::open(folder_options(folder.path()).with_quota_len(1_500_000));
    cache.gc().unwrap();
    let usage = cache.usage().unwrap();
    assert!(usage.allocated_len <= 1_500_000, "{usage:?}");
    assert_eq!(cache.verify(&[]).unwrap().damaged_chunks, Vec::<String>::new());
}

/// Fills and evicts until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child of other tests"]
async fn child_fills_until_killed() {
    let Some((folder, seed)) = child() else { return };
    let fixture = fixture();
    let cache = Cache::open(folder_options(&folder).with_quota_len(1_500_000));
    let mut random = Random(seed);
    println!("ready");
    loop {
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
        let number = random.below(COUNT);
        let bytes = loader.load(&fixture.chunks[number], Priority::Demand).await.unwrap();
        assert!(bytes == fixture.contents[number]);
    }
}

#[test]
fn a_process_killed_in_the_middle_of_fills_leaves_a_good_cache_two_hundred_times() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = fixture();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..200 {
        let mut child = start("child_fills_until_killed", folder.path(), round);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the child ended");
        }
        // Kill after some loads have been seen on disk, at another point in each round.
        runtime.block_on(async {
            let cache = Cache::open(folder_options(folder.path()).with_quota_len(1_500_000));
            let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
            let mut random = Random(1_000 + round);
            for _ in 0..random.below(6) {
                let number = random.below(COUNT);
                let bytes = loader.load(&fixture.chunks[number], Priority::Demand).await.unwrap();
                assert!(bytes == fixture.contents[number]);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            for number in 0..8 {
                let number = (number * 7 + round as usize) % COUNT;
                let bytes = loader.load(&fixture.chunks[number], Priority::Demand).await.unwrap();
                assert!(bytes == fixture.contents[number], "round {round}");
            }
            cache.flush().await;
            assert_eq!(cache.counters().disk_verify_failures, 0, "round {round}");
        });
    }
}

#[tokio::test]
async fn a_holder_that_hangs_does_not_block_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (hanging, fixture) = (fixture(), fixture());
    hanging.close_gate();
    let holder = Cache::open(folder_options(folder.path()));
    let loader = holder.loader(hanging.source.clone(), VerifyLevel::Load);
    let load = loader.load(&hanging.chunks[0], Priority::Demand);
    crate::support::until(|| hanging.request_count() == 1).await;
    let wait = Duration::from_millis(20);
    let other = Cache::open(folder_options(folder.path()).with_lease_wait_max(wait));
    let loader = other.loader(fixture.source.clone(), VerifyLevel::Load);
    let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    assert!(bytes == fixture.contents[0]);
    let counters = other.counters();
    assert_eq!((counters.lease_waits, counters.lease_timeouts), (1, 1));
    drop(load);
}

#[tokio::test]
async fn a_lease_that_is_given_up_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let (hanging, fixture) = (fixture(), fixture());
    hanging.close_gate();
    let holder = Cache::open(folder_options(folder.path()));
    let loader = holder.loader(hanging.source.clone(), VerifyLevel::Load);
    let load = loader.load(&hanging.chunks[0], Priority::Demand);
    crate::support::until(|| hanging.request_count() == 1).await;
    let wait = Duration::from_secs(600);
    let other = Cache::open(folder_options(folder.path()).with_lease_wait_max(wait));
    let waiting = other.loader(fixture.source.clone(), VerifyLevel::Load);
    let waiting = waiting.load(&fixture.chunks[0], Priority::Demand);
    crate::support::until(|| other.counters().lease_waits == 1).await;
    drop(load);
    assert!(waiting.await.unwrap() == fixture.contents[0]);
    assert_eq!((fixture.request_count(), other.counters().lease_timeouts), (1, 0));
}
