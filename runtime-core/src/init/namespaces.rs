//! Namespaces and the cgroup: joining, making, and going on inside them.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Init, identity};
use crate::channel::{ask_for_maps, ask_for_net_devices, report_born, wait_until_known};
use crate::netlink;
use crate::step::{Namespace, SourceIndex};
use crate::sys::{self, Cloned};

impl Init<'_> {
    /// A thread that moves itself needs no grace period: 0.08 ms where a write to `cgroup.procs` costs 7. The descriptors
    /// are of the host: they are closed before the container's processes may see who enters.
    pub(super) fn join_cgroup(&self) -> Result<(), Errno> {
        for tasks in self.tasks {
            rustix::io::write(tasks, b"0")?;
            let number = tasks.as_raw_fd().cast_unsigned();
            sys::close_range(number, number)?;
        }
        Ok(())
    }

    /// A namespace that a user namespace owns can be joined only from inside that, any other only from outside.
    pub(super) fn join(&mut self, source: SourceIndex, kind: Namespace, before_user: bool) -> Result<(), Errno> {
        if self.joined & kind.flag() != 0 {
            return Ok(());
        }
        match sys::setns(self.source(source)?, kind.flag()) {
            Err(Errno::PERM) if before_user => Ok(()),
            Err(errno) => Err(errno),
            Ok(()) => {
                self.joined |= kind.flag();
                Ok(())
            }
        }
    }

    pub(super) fn unshare_user(&self) -> Result<(), Errno> {
        sys::unshare(Namespace::User.flag())?;
        ask_for_maps(self.channel())?;
        identity::become_root()
    }

    /// Whoever opens the file counts for what is written to it: behind a user namespace that would be nobody.
    pub(super) fn open_time_offsets(&mut self) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        self.time_offsets = Some(rustix::fs::open(c"/proc/self/timens_offsets", flags, Mode::empty())?);
        Ok(())
    }

    pub(super) fn write_time_offsets(&mut self, offsets: &CStr) -> Result<(), Errno> {
        let file = self.time_offsets.take().ok_or(Errno::BADF)?;
        let written = rustix::io::write(&file, offsets.to_bytes())?;
        if written == offsets.count_bytes() { Ok(()) } else { Err(Errno::IO) }
    }

    /// A process does not change its pid namespace, only its children's: so a sibling goes on, and this one ends.
    pub(super) fn enter_pid_namespace(&self) -> Result<(), Errno> {
        match sys::clone_again()? {
            // What it says before it is known would be taken for the words of the one that ends.
            Cloned::Child => wait_until_known(self.channel()),
            Cloned::Parent { pid, pidfd } => {
                report_born(self.channel(), pid, pidfd.as_fd())?;
                sys::exit(0)
            }
        }
    }
}

/// `lo` of the network namespace we are in: SIOCSIFFLAGS. netdevice(7)
pub(super) fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::set_interface_up(socket.as_fd(), c"lo")
}

/// Whoever has a socket of a network namespace can reach it, as far as he may.
pub(super) fn ask_for_devices(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    ask_for_net_devices(channel, netlink::open()?.as_fd())
}
