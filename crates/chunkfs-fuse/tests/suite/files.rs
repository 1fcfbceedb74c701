//! File content and holes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::support::{CHUNK, Part, TestImage, noise};

#[test]
fn files_of_every_boundary_length_are_read_exactly() {
    let lens = [0, 1, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 40 * CHUNK + 7];
    let mut image = TestImage::new();
    let content = |len: usize| noise(len as u64, len);
    for len in lens {
        let parts = if len == 0 { vec![] } else { vec![Part::Data(content(len))] };
        image.file(len.to_string().as_bytes(), parts);
    }
    let Some(served) = image.serve() else { return };
    for len in lens {
        let expected = content(len);
        let path = served.path(len.to_string());
        assert!(fs::read(&path).unwrap() == expected, "length {len}");
        let file = File::open(&path).unwrap();
        for start in [0, 1, 4095, 4096, CHUNK - 1, CHUNK, len.saturating_sub(1), len, len + 1] {
            let mut buffer = vec![0; 5000];
            let read = file.read_at(&mut buffer, start as u64).unwrap();
            let expected = expected.get(start..).unwrap_or(&[]);
            let expected = &expected[..expected.len().min(5000)];
            assert!(buffer[..read] == *expected, "length {len}, from {start}");
        }
    }
}

#[test]
fn sparse_files_above_4_gib_read_as_zeros_and_data() {
    let mut image = TestImage::new();
    let data = noise(1, CHUNK + 100);
    let parts = vec![Part::Hole(5 << 30), Part::Data(data.clone()), Part::Hole(10_000)];
    image.file(b"sparse", parts);
    let Some(served) = image.serve() else { return };
    let file = File::open(served.path("sparse")).unwrap();
    let mut buffer = vec![1; data.len() + 8192];
    file.read_exact_at(&mut buffer, (5 << 30) - 4096).unwrap();
    assert!(buffer[..4096].iter().all(|byte| *byte == 0));
    assert!(buffer[4096..][..data.len()] == data);
    assert!(buffer[4096 + data.len()..].iter().all(|byte| *byte == 0));
    let mut buffer = [1; 64];
    file.read_exact_at(&mut buffer, 4 << 30).unwrap();
    assert_eq!(buffer, [0; 64]);
}

#[test]
fn data_and_holes_are_found() {
    let mut image = TestImage::new();
    let chunk = CHUNK as u64;
    let data = |seed| Part::Data(noise(seed, CHUNK));
    image.file(b"holes", vec![Part::Hole(8192), data(1), data(2), Part::Hole(4096)]);
    image.file(b"dense", vec![data(3), Part::Data(noise(4, 10))]);
    image.file(b"hole", vec![Part::Hole(100)]);
    let Some(served) = image.serve() else { return };
    let end = 8192 + 2 * chunk;
    let outside = Err(Errno::NXIO);
    for (name, from, data, hole) in [
        ("holes", 0, Ok(8192), Ok(0)),
        ("holes", 8191, Ok(8192), Ok(8191)),
        ("holes", 8192, Ok(8192), Ok(end)),
        ("holes", 8192 + chunk, Ok(8192 + chunk), Ok(end)),
        ("holes", end, outside, Ok(end)),
        ("holes", end + 4095, outside, Ok(end + 4095)),
        ("holes", end + 4096, outside, outside),
        ("dense", 0, Ok(0), Ok(chunk + 10)),
        ("dense", chunk + 9, Ok(chunk + 9), Ok(chunk + 10)),
        ("dense", chunk + 10, outside, outside),
        ("hole", 0, outside, Ok(0)),
        ("hole", u64::from(u32::MAX), outside, outside),
    ] {
        let file = File::open(served.path(name)).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(from)), data, "{name}: data from {from}");
        assert_eq!(seek(&file, SeekFrom::Hole(from)), hole, "{name}: hole from {from}");
    }
}

#[test]
fn every_change_is_refused_as_read_only() {
    let mut image = TestImage::new();
    let root = image.root();
    image.directory(root, b"folder");
    image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let Some(served) = image.serve() else { return };
    let (file, folder, new) = (served.path("file"), served.path("folder"), served.path("new"));
    let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    let outcomes: [(&str, io::Result<()>); 13] = [
        ("write", OpenOptions::new().write(true).open(&file).map(drop)),
        ("append", OpenOptions::new().append(true).open(&file).map(drop)),
        ("truncate", File::create(&file).map(drop)),
        ("create", File::create_new(&new).map(drop)),
        ("mkdir", fs::create_dir(&new)),
        ("symlink", std::os::unix::fs::symlink("target", &new)),
        ("link", fs::hard_link(&file, &new)),
        ("rename", fs::rename(&file, &new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(&folder)),
        ("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(&file, Some(1), None)),
        ("utimes", File::open(&file).and_then(|file| file.set_times(times))),
    ];
    for (operation, outcome) in outcomes {
        let error = outcome.expect_err(operation);
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{operation}: {error}");
    }
    let flags = rustix::fs::XattrFlags::empty();
    assert_eq!(rustix::fs::setxattr(&file, "user.a", b"b", flags), Err(Errno::ROFS));
    assert_eq!(rustix::fs::removexattr(&file, "user.a"), Err(Errno::ROFS));
    assert_eq!(fs::read(&file).unwrap(), b"content");
}
