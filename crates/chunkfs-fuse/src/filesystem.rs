//! Answers to the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chunkfs_image::Image;
use chunkfs_index::{FileKind, Index, Inode, InodeIndex};
use fuser::{
    BsdFileFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::attributes::{BLOCK_LEN, attributes, file_type};
use crate::counters::{AtomicCounters, add};
use crate::errno::{self, Refusal};
use crate::listing::entries;
use crate::options::ReadErrorObserver;
use crate::seek::seek;

/// The longest name of any file, as for all Linux file systems.
const NAME_LEN_MAX: usize = 255;
/// The longest read that the kernel sends, and with it the number of pages of any request.
const READ_LEN_MAX: u32 = 1 << 20;
/// How many reads of its read-ahead the kernel sends before it waits for answers.
const BACKGROUND_READS_MAX: u16 = 128;
/// Inode numbers are never used for another file.
const GENERATION: Generation = Generation(0);

/// An image as the kernel sees it. Holds no lock and no state: every answer is a function of the
/// index, whichever thread gives it.
pub(crate) struct ImageFilesystem {
    image: Image,
    counters: Arc<AtomicCounters>,
    timeout: Duration,
    read_error_observer: Option<ReadErrorObserver>,
    content_len: u64,
    is_open_needed: bool,
    is_opendir_needed: bool,
}

impl ImageFilesystem {
    pub(crate) fn new(
        image: Image,
        counters: Arc<AtomicCounters>,
        timeout: Duration,
        read_error_observer: Option<ReadErrorObserver>,
    ) -> Self {
        let chunks = image.index().chunks();
        Self {
            content_len: chunks.map(|chunk| u64::from(chunk.uncompressed_len)).sum(),
            image,
            counters,
            timeout,
            read_error_observer,
            is_open_needed: true,
            is_opendir_needed: true,
        }
    }

    fn index(&self) -> &Index {
        self.image.index()
    }

    fn inode(&self, ino: INodeNo) -> Result<Inode, Refusal> {
        let index = InodeIndex::from_ino(ino.0).ok_or(Refusal::UnknownInode)?;
        self.index().inode(index).ok_or(Refusal::UnknownInode)
    }

    fn directory(&self, ino: INodeNo) -> Result<Inode, Refusal> {
        let inode = self.inode(ino)?;
        if inode.kind == FileKind::Directory { Ok(inode) } else { Err(Refusal::NotADirectory) }
    }

    fn find(&self, parent: INodeNo, name: &[u8]) -> Result<Inode, Refusal> {
        // The kernel asks for `.` and `..` only to find an inode again by a file handle, and then
        // `.` of anything.
        if name == b"." {
            return self.inode(parent);
        }
        let directory = self.directory(parent)?;
        if name == b".." {
            return self.inode(INodeNo(directory.parent().ino()));
        }
        if name.len() > NAME_LEN_MAX {
            return Err(Refusal::NameTooLong);
        }
        self.index().lookup(&directory, name).ok_or(Refusal::UnknownName)
    }

    fn xattr(&self, ino: INodeNo, name: &[u8]) -> Result<&[u8], Refusal> {
        let inode = self.inode(ino)?;
        let found = self.index().xattrs(&inode).find(|xattr| xattr.name == name);
        found.map(|xattr| xattr.value).ok_or(Refusal::UnknownXattr)
    }

    fn xattr_names(&self, ino: INodeNo) -> Result<Vec<u8>, Refusal> {
        let inode = self.inode(ino)?;
        let mut names = Vec::new();
        for xattr in self.index().xattrs(&inode) {
            names.extend_from_slice(xattr.name);
            names.push(0);
        }
        Ok(names)
    }

    /// Returns whether any inode has an ACL.
    fn has_acls(&self) -> bool {
        let index = self.index();
        let inodes = (0..index.inode_count()).filter_map(|at| index.inode(InodeIndex::new(at)));
        inodes.filter(Inode::has_xattrs).any(|inode| {
            index.xattrs(&inode).any(|xattr| xattr.name.starts_with(b"system.posix_acl_"))
        })
    }
}

/// Answers `size` bytes of room with the value, and no room with its length.
fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Refusal::BufferTooShort.into()),
    }
}

/// Refuses requests that change something. The mount is read-only, so that the kernel does not send
/// them; an administrator can remount it.
macro_rules! refuse_changes {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $name(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Refusal::ReadOnly.into());
        })*
    };
}

impl Filesystem for ImageFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        let offered = config.capabilities();
        let mut flags = wanted & offered;
        // With ACLs the kernel asks for them at every first permission check by someone other than
        // the owner: only where there are any.
        if self.has_acls() {
            flags |= InitFlags::FUSE_POSIX_ACL & offered;
        }
        self.is_open_needed = !flags.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.is_opendir_needed = !flags.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        // None of these can fail: the flags were offered, the numbers are within bounds.
        let _ = config.add_capabilities(flags);
        let _ = config.set_max_write(READ_LEN_MAX);
        let _ = config.set_max_background(BACKGROUND_READS_MAX);
        // The kernel offers its default and takes no more here; the mount raises it later.
        if let Err(offered) = config.set_max_readahead(READ_LEN_MAX) {
            let _ = config.set_max_readahead(offered);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        add(&self.counters.lookups, 1);
        match self.find(parent, name.as_bytes()) {
            Ok(inode) => {
                reply.entry(&self.timeout, &attributes(self.index(), &inode), GENERATION);
            }
            Err(Refusal::UnknownName) => {
                add(&self.counters.negative_lookups, 1);
                // Inode zero: there is no such name, and the kernel may remember that.
                let mut missing = attributes(self.index(), &self.index().root());
                missing.ino = INodeNo(0);
                reply.entry(&self.timeout, &missing, GENERATION);
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        add(&self.counters.getattrs, 1);
        match self.inode(ino) {
            Ok(inode) => reply.attr(&self.timeout, &attributes(self.index(), &inode)),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        add(&self.counters.readlinks, 1);
        match self.inode(ino) {
            Ok(inode) => match self.index().symlink_target(&inode) {
                Some(target) => reply.data(target),
                None => reply.error(Refusal::NotASymlink.into()),
            },
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        add(&self.counters.opens, 1);
        if self.is_open_needed {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            reply.error(Refusal::NotNeeded.into());
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        add(&self.counters.opens, 1);
        if self.is_opendir_needed {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(FileHandle(0), flags);
        } else {
            reply.error(Refusal::NotNeeded.into());
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        add(&self.counters.reads, 1);
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(refusal) => return reply.error(refusal.into()),
        };
        let counters = Arc::clone(&self.counters);
        let observer = self.read_error_observer.clone();
        self.image.submit_read(&inode, offset, size.into(), move |result| {
            add(&counters.finished_reads, 1);
            match result {
                Ok(bytes) => {
                    add(&counters.read_bytes, bytes.len() as u64);
                    reply.data(&bytes);
                }
                Err(error) => {
                    add(&counters.read_errors, 1);
                    if let Some(observer) = observer {
                        observer(&error);
                    }
                    reply.error(errno::of_read(&error));
                }
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Refusal::NotNeeded.into());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Refusal::NotNeeded.into());
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Refusal::NotNeeded.into());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        add(&self.counters.readdirs, 1);
        let directory = match self.directory(ino) {
            Ok(directory) => directory,
            Err(refusal) => return reply.error(refusal.into()),
        };
        for entry in entries(self.index(), &directory, offset) {
            let (ino, kind) = (INodeNo(entry.inode.ino()), file_type(entry.kind));
            if reply.add(ino, entry.cookie, kind, OsStr::from_bytes(entry.name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        add(&self.counters.readdirs, 1);
        let directory = match self.directory(ino) {
            Ok(directory) => directory,
            Err(refusal) => return reply.error(refusal.into()),
        };
        for entry in entries(self.index(), &directory, offset) {
            // Opening the index checked that every name leads to an inode.
            let Some(inode) = self.index().inode(entry.inode) else { continue };
            let (ino, name) = (INodeNo(entry.inode.ino()), OsStr::from_bytes(entry.name));
            let attributes = attributes(self.index(), &inode);
            if reply.add(ino, entry.cookie, name, &self.timeout, &attributes, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        add(&self.counters.statfs, 1);
        let blocks = self.content_len.div_ceil(BLOCK_LEN.into());
        let files = self.index().inode_count().into();
        reply.statfs(blocks, 0, 0, files, 0, BLOCK_LEN, NAME_LEN_MAX as u32, BLOCK_LEN);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        add(&self.counters.xattrs, 1);
        match self.xattr(ino, name.as_bytes()) {
            Ok(value) => reply_xattr(reply, size, value),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        add(&self.counters.xattrs, 1);
        match self.xattr_names(ino) {
            Ok(names) => reply_xattr(reply, size, &names),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        add(&self.counters.lseeks, 1);
        let found = self.inode(ino).and_then(|inode| seek(self.index(), &inode, offset, whence));
        match found {
            Ok(offset) => reply.offset(offset),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    refuse_changes! {
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
    }
}
