//! The facts that decide the privileges of a running server: its routes to members and hosts, and the paths
//! of its members.

use std::path::PathBuf;

use super::super::front::Front;
use super::Server;
use crate::device::Device;
use crate::threads::Routes;

/// The routes of a server with these devices; a device that is in no slot counts too.
pub(super) fn routes_of(front: &Front, devices: &[Device]) -> Routes {
    Routes {
        block_device: front.is_block_device(),
        passthrough: devices.iter().any(Device::wants_passthrough),
    }
}

impl Server {
    /// The routes at the start. A device that later replaces a member may have another route, see
    /// `Uring::attach`.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes
    }

    /// The files and devices that hold the members' bytes, in every known layer: for a partition also its
    /// disk, for a loop device also its file.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        self.devices.members().iter().flat_map(|device| device.places().map(PathBuf::from)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test waits")]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::Stop;
    use super::super::replace::tests::create_members;
    use super::*;
    use crate::server::ServeOptions;
    use crate::threads::{Thread, Threads};

    /// Each lasting thread limits itself once: reactors and listeners before the server is ready, a handshake
    /// when its client connects.
    #[test]
    fn each_thread_limits_itself_once() {
        let (directory, members) = create_members("limited");
        let socket = directory.join("nbd");
        let calls: Arc<Mutex<Vec<(Thread, Routes, String)>>> = Arc::default();
        let noted = Arc::clone(&calls);
        let threads = Threads::limited_by(move |thread, routes| {
            let name = std::thread::current().name().unwrap_or_default().to_string();
            noted.lock().unwrap().push((thread, routes, name));
        });
        let nbd = vec![format!("unix:{}", socket.display())];
        let options =
            ServeOptions { members: members.clone(), reactors: 2, nbd, threads, ..ServeOptions::default() };
        let server = Server::start(options).unwrap();
        let count =
            |wanted: Thread| calls.lock().unwrap().iter().filter(|(thread, ..)| *thread == wanted).count();
        assert_eq!((count(Thread::Reactor), count(Thread::NbdHandshake), count(Thread::Noter)), (2, 0, 0));
        let _client = UnixStream::connect(&socket).unwrap();
        for _ in 0..1000 {
            if count(Thread::NbdHandshake) == 1 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((count(Thread::NbdListener), count(Thread::NbdHandshake)), (1, 1));
        for (thread, routes, name) in calls.lock().unwrap().iter() {
            assert_eq!(*routes, Routes::default(), "{thread:?}: files and NBD");
            let expected = match thread {
                Thread::Reactor => "reactor-",
                Thread::NbdListener => "nbd-listen",
                Thread::NbdHandshake => "nbd-handshake",
                Thread::Noter => "note",
            };
            assert!(name.starts_with(expected), "{thread:?} is called by the thread {name}");
        }
        assert_eq!((server.routes(), server.places()), (Routes::default(), members));
        server.close(Stop::Force).unwrap();
        server.stop().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
