//! System calls that the standard library and rustix do not offer safely, each behind one safe function. Every
//! caller is single-threaded where a call demands it: the zygote, a shim, or a child of a shim.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Which side of a fork is running.
pub enum Fork {
    Child,
    Parent(i32),
}

fn check(result: c_int) -> Result<c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::from(ErrorKind::InvalidInput))
}

/// Splits the process in two. The caller has exactly one thread, so that the child may allocate and run any code.
pub fn fork() -> Result<Fork> {
    // SAFETY: the process is single-threaded (see above), so no lock is copied in a locked state.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends the process at once, without destructors or exit handlers of the parent's copy.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(code) }
}

pub fn unshare(flags: c_int) -> Result<()> {
    // SAFETY: callers are single-threaded; file descriptors are not unshared.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

pub fn setns(namespace: BorrowedFd<'_>, flags: c_int) -> Result<()> {
    // SAFETY: the descriptor is valid for the call.
    check(unsafe { libc::setns(namespace.as_raw_fd(), flags) }).map(drop)
}

/// mount(2). Empty strings stand for null.
pub fn mount(source: &str, target: &Path, fstype: &str, flags: c_ulong, data: &str) -> Result<()> {
    let nul = |_| Error::from(ErrorKind::InvalidInput);
    let (source, fstype) = (CString::new(source).map_err(nul)?, CString::new(fstype).map_err(nul)?);
    let (target, data) = (c_path(target)?, CString::new(data).map_err(nul)?);
    let or_null = |text: &CString| if text.is_empty() { ptr::null() } else { text.as_ptr() };
    // SAFETY: every pointer is null or a NUL-terminated string that outlives the call.
    let result = unsafe {
        libc::mount(or_null(&source), target.as_ptr(), or_null(&fstype), flags, or_null(&data).cast::<c_void>())
    };
    check(result).map(drop)
}

pub fn umount_detach(target: &Path) -> Result<()> {
    let target = c_path(target)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// A detached copy of the mount at `source`, to be put elsewhere by `move_mount`.
pub fn open_tree_clone(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let path = c_path(source)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: the path is NUL-terminated and outlives the call; the result, when not negative, is a new descriptor.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
        check(fd as c_int).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Attaches a detached mount at `target`.
pub fn move_mount(tree: BorrowedFd<'_>, target: &Path) -> Result<()> {
    const FROM_EMPTY_PATH: u32 = 0x4;
    const TO_FOLLOW_SYMLINKS: u32 = 0x10;
    let path = c_path(target)?;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            FROM_EMPTY_PATH | TO_FOLLOW_SYMLINKS,
        )
    };
    check(result as c_int).map(drop)
}

/// Adds attributes (`MOUNT_ATTR_*`) and, unless zero, a propagation (`MS_*`) to a mount and keeps all its others.
pub fn mount_setattr(tree: BorrowedFd<'_>, set: u64, propagation: u64, recursive: bool) -> Result<()> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let attributes = Attributes { set, clear: 0, propagation, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is the kernel's first version of struct mount_attr, its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(&attributes),
            size_of::<Attributes>(),
        )
    };
    check(result as c_int).map(drop)
}

/// Makes the current directory the root and leaves the old root mounted over it.
pub fn pivot_root_here() -> Result<()> {
    // SAFETY: both paths are NUL-terminated constants.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(result as c_int).map(drop)
}

pub fn make_node(path: &Path, mode: u32, major: u32, minor: u32) -> Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::mknod(path.as_ptr(), mode, libc::makedev(major, minor)) }).map(drop)
}

pub fn umask(mask: u32) {
    // SAFETY: umask cannot fail and touches only this process.
    unsafe { libc::umask(mask) };
}

pub fn set_hostname(name: &str) -> Result<()> {
    // SAFETY: pointer and length describe one live string.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length describe one live slice of gid_t.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets real, effective and saved ids, group first.
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no memory is involved; the process has one thread, so all of it changes.
    unsafe {
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid)).map(drop)
    }
}

fn prctl(option: c_int, first: c_ulong, second: c_ulong) -> Result<c_int> {
    // SAFETY: used only with options whose arguments are numbers.
    check(unsafe { libc::prctl(option, first, second, 0 as c_ulong, 0 as c_ulong) })
}

pub fn drop_bounding(capability: u8) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0).map(drop)
}

pub fn ambient_clear() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0).map(drop)
}

pub fn ambient_raise(capability: u8) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as c_ulong, c_ulong::from(capability)).map(drop)
}

pub fn keep_capabilities() -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

pub fn no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// The signal that this process gets when its parent ends.
pub fn parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as c_ulong, 0).map(drop)
}

/// Lets go of the memory that this program's code takes here. What is needed again comes back from the file, or mostly
/// from where the kernel still has it.
pub fn forget_code() -> Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy()));
    for line in code {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let address = |text| usize::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(start, end)| (address(start), address(end))) else { continue };
        // SAFETY: the kernel named this range as a mapping of the program's file that is never written to, so that each
        // of its pages has the file's content whenever it is mapped again.
        check(unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

/// Huge pages on or off for this process, its children and whatever they become. Fails where the kernel has none.
pub fn set_huge_pages(allowed: bool) -> Result<()> {
    prctl(libc::PR_SET_THP_DISABLE, c_ulong::from(!allowed), 0).map(drop)
}

pub fn become_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// The name shown by ps for this process, at most 15 bytes of it.
pub fn set_process_name(name: &CStr) {
    // SAFETY: the name is NUL-terminated; the kernel reads at most 16 bytes of it up to the NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Sets the capability sets of this thread, as bit masks.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let word = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: version 3 of the interface takes one header and two data words, laid out as above.
    let result = unsafe { libc::syscall(libc::SYS_capset, ptr::from_ref(&header), data.as_ptr()) };
    check(result as c_int).map(drop)
}

/// Installs a filter: a classic BPF program, eight bytes an instruction.
pub fn load_seccomp(program: &[u8]) -> Result<()> {
    let mut instructions: Vec<libc::sock_filter> = Vec::with_capacity(program.len() / 8);
    for chunk in program.chunks_exact(8) {
        instructions.push(libc::sock_filter {
            code: u16::from_le_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        });
    }
    let length = u16::try_from(instructions.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len: length, filter: instructions.as_mut_ptr() };
    const SECCOMP_SET_MODE_FILTER: c_ulong = 1;
    // SAFETY: the program's pointer and length describe a live vector; the kernel copies it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&filter)) };
    check(result as c_int).map(drop)
}

/// Replaces this process. Returns only the reason why it could not.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> Error {
    let pointers = |list: &[CString]| {
        let mut all: Vec<*const c_char> = list.iter().map(|text| text.as_ptr()).collect();
        all.push(ptr::null());
        all
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and point to strings that live until the call ends.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Error::last_os_error()
}

/// Limits a resource (`RLIMIT_*`); the hard limit is never raised, which would need CAP_SYS_RESOURCE.
pub fn limit_resource(resource: i32, soft: u64, hard: u64) -> Result<()> {
    let mut current = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structures live through the calls.
    unsafe {
        check(libc::getrlimit(resource as _, &mut current))?;
        let hard = hard.min(current.rlim_max);
        let wanted = libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard };
        check(libc::setrlimit(resource as _, &wanted)).map(drop)
    }
}

/// Marks every descriptor from `first` on to be closed at exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: only flags of this process's own descriptors change.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result as c_int).map(drop)
}

/// Makes `target` (0, 1 or 2) a copy of `source`, open across exec.
pub fn duplicate_to(source: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    // SAFETY: target is a standard stream, which no owned descriptor of this process stands for.
    unsafe {
        if source.as_raw_fd() == target {
            return check(libc::fcntl(target, libc::F_SETFD, 0)).map(drop);
        }
        check(libc::dup2(source.as_raw_fd(), target)).map(drop)
    }
}

/// The other side of a pseudo-terminal's master, unlocked.
pub fn terminal_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let unlock: c_int = 0;
    const TIOCGPTPEER: c_int = 0x5441;
    // SAFETY: the first call reads one int; the second returns a new descriptor that nobody else owns.
    unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, ptr::from_ref(&unlock)))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        check(libc::ioctl(master.as_raw_fd(), TIOCGPTPEER as _, flags)).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Makes the terminal on standard input the controlling one of this session.
pub fn take_terminal() -> Result<()> {
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) }).map(drop)
}

pub fn resize_terminal(master: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ as _, ptr::from_ref(&size)) }).map(drop)
}

/// Brings the loopback device of this network namespace up.
pub fn loopback_up() -> Result<()> {
    // SAFETY: ifreq is plain data for which zero is valid; the descriptor is closed by its owner.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, ptr::from_ref(&request))).map(drop)
    }
}

/// Blocks SIGCHLD and gives a descriptor that is readable while one is pending.
pub fn child_signals() -> Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; the new descriptor has no other owner.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Every signal at its default and none blocked, as a program expects to find them.
pub fn default_signals() {
    // SAFETY: SIG_DFL runs no code of ours; the set is initialised before use.
    unsafe {
        for signal in 1..65 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP && !(32..35).contains(&signal) {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// One ended child and its exit code (128 + signal when it was killed), if there is one.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: status outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Some((pid, code))
}

/// Reaps one given child if it has ended, or waits for it.
pub fn wait_for(pid: i32, block: bool) {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid, ptr::null_mut(), if block { 0 } else { libc::WNOHANG }) };
}

pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A process descriptor: readable once the process has ended, zombies included.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: a result that is not negative is a new descriptor without another owner.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        check(fd as c_int).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Waits until a descriptor has one of its events or the time is over (-1: no end).
pub fn poll(descriptors: &mut [libc::pollfd], timeout_ms: i32) -> Result<usize> {
    // SAFETY: pointer and length describe one live slice.
    let result = unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as _, timeout_ms) };
    match check(result) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        other => other.map(|ready| ready as usize),
    }
}

/// Takes over the descriptor that the parent left at this number.
pub fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: called once, at the start of a re-executed zygote, whose parent put a socket there.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An entry for `poll`: wait until this can be read.
pub fn readable(descriptor: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Reads and forgets what a non-blocking descriptor holds.
pub fn drain(descriptor: &OwnedFd) {
    let mut buffer = [0u8; 1024];
    while rustix::io::read(descriptor, &mut buffer).is_ok_and(|length| length > 0) {}
}
