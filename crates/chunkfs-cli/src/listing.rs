//! How files are listed: one line each, whatever bytes their names hold.

use std::fmt::Write as _;

use chunkfs_index::{FileKind, Index, Inode};

/// Appends `name` with everything but printable ASCII, and the backslash, as `\xNN`.
pub(crate) fn push_escaped(line: &mut String, name: &[u8]) {
    for byte in name {
        match byte {
            b'\\' => line.push_str("\\x5c"),
            b' '..=b'~' => line.push(char::from(*byte)),
            byte => {
                let _ = write!(line, "\\x{byte:02x}");
            }
        }
    }
}

/// Returns `MODE LINKS UID GID LENGTH SECONDS.NANOS PATH[ -> TARGET]`.
///
/// For devices the length is `MAJOR,MINOR`. Times are since 1970; a negative one is written as the
/// second before it plus the nanoseconds, as it is stored.
pub(crate) fn long_line(index: &Index, inode: &Inode, path: &[u8]) -> String {
    let mut line = mode_text(inode);
    let _ = write!(line, " {} {} {} ", inode.link_count, inode.uid, inode.gid);
    let _ = match inode.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            write!(line, "{},{}", inode.device.major, inode.device.minor)
        }
        _ => write!(line, "{}", inode.len),
    };
    let _ = write!(line, " {}.{:09} ", inode.mtime.seconds, inode.mtime.nanos);
    push_escaped(&mut line, path);
    if let Some(target) = index.symlink_target(inode) {
        line.push_str(" -> ");
        push_escaped(&mut line, target);
    }
    line
}

/// The ten characters that `ls -l` begins with.
fn mode_text(inode: &Inode) -> String {
    let kind = match inode.kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let bit = |shift: u16| inode.permissions >> shift & 1 == 1;
    let execute = |shift, special, with, without| match (bit(shift), bit(special)) {
        (true, true) => with,
        (false, true) => without,
        (true, false) => 'x',
        (false, false) => '-',
    };
    let access = |shift, letter| if bit(shift) { letter } else { '-' };
    [
        kind,
        access(8, 'r'),
        access(7, 'w'),
        execute(6, 11, 's', 'S'),
        access(5, 'r'),
        access(4, 'w'),
        execute(3, 10, 's', 'S'),
        access(2, 'r'),
        access(1, 'w'),
        execute(0, 9, 't', 'T'),
    ]
    .iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_stay_on_one_line() {
        let mut line = String::new();
        push_escaped(&mut line, b"a b\\c\n\xff\x7f~");
        assert_eq!(line, "a b\\x5cc\\x0a\\xff\\x7f~");
    }
}
