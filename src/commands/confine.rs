//! How the threads of `serve` enter the sandbox: turns the facts about a server into the terms of
//! [`crate::sandbox`].

use std::path::{Path, PathBuf};

use engine::server::Server;
use engine::threads::{Routes, Threads};

use crate::failure::{Context, Failure, Result};
use crate::rundir::own_uid;
use crate::sandbox::{Choice, Facts, Places, Reach, Sandbox, Thread, has_lock_limit};

/// The sandbox of a server, and the places of its files.
pub struct Confined {
    sandbox: Sandbox,
    places: Places,
    /// The facts that are known so far.
    facts: Facts,
}

/// The facts about a running server.
pub struct Known {
    facts: Facts,
    reach: Reach,
}

impl Confined {
    /// Gives up every privilege that a start does not need. Must be called before there are threads.
    /// `may_be_block_device` says whether hosts may later use a block device. Also returns lines for the log.
    pub fn begin(choice: Choice, may_be_block_device: bool) -> (Confined, Vec<String>) {
        let (sandbox, lines) = Sandbox::begin(choice);
        // The limit is read after `begin`, which may have raised it.
        let has_lock_limit = has_lock_limit();
        let facts = Facts { block_device: may_be_block_device, has_lock_limit, ..Facts::default() };
        (Confined { sandbox, places: Places::default(), facts }, lines)
    }

    /// The limiter of a thread that opens nothing, for use before anything about the server is known.
    pub fn at_once(&self, thread: Thread) -> impl FnOnce() + Send + use<> {
        self.sandbox.limiter(thread, self.facts, &Reach::default())
    }

    /// Takes in where the files of a server will be: members, its run directory, its NBD addresses, and
    /// directories of replacements.
    pub fn learn(
        &mut self,
        members: &[PathBuf],
        run_dir: &Path,
        nbd: &[String],
        allowed: &[PathBuf],
    ) -> Result<()> {
        if let Some(path) = allowed.iter().find(|path| !path.is_dir()) {
            return Err(Failure::new(format!(
                "--allow-path {}: is not a directory that is there",
                path.display()
            )));
        }
        let absolute =
            |path: &Path| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
        let sockets = nbd.iter().filter_map(|address| address.strip_prefix("unix:")).map(Path::new);
        self.places = Places {
            members: members.to_vec(),
            run_dir: run_dir.to_path_buf(),
            sockets: sockets.map(absolute).collect::<Result<_>>()?,
            allowed: allowed.iter().map(|path| absolute(path)).collect::<Result<_>>()?,
        };
        self.facts.others_own_files = self.places.others_own(own_uid());
        Ok(())
    }

    /// The limiter of the engine's threads, which confine themselves with it.
    pub fn threads(&self) -> Threads {
        let (sandbox, reach) = (self.sandbox.clone(), Reach::of_start(&self.places.run_dir));
        let known = self.facts;
        Threads::limited_by(move |thread, routes| {
            sandbox.confine(thread.into(), with(known, routes), &reach);
        })
    }

    /// Takes in where the members of a running server really are.
    pub fn of_server(&mut self, server: &Server) -> Known {
        self.places.members.extend(server.places());
        self.facts.others_own_files = self.places.others_own(own_uid());
        Known { facts: with(self.facts, server.routes()), reach: Reach::new(&self.places) }
    }

    /// The limiter of a thread of a running server; made before the thread is started.
    pub fn limiter(&self, thread: Thread, known: &Known) -> impl FnOnce() + Send + use<> {
        self.sandbox.limiter(thread, known.facts, &known.reach)
    }
}

fn with(facts: Facts, Routes { block_device, passthrough }: Routes) -> Facts {
    Facts { block_device, passthrough, ..facts }
}
