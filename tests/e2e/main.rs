//! End to end: the program as an operator runs it, real clients as hosts, files and loop devices as members.
//!
//! Method: each test has a laboratory of its own (a temporary directory with members and a run directory),
//! creates and serves arrays by the command line, and drives them with nbdinfo, nbdcopy, qemu-img, qemu-io,
//! fio, and a small NBD client written here for what those cannot report (which writes were acknowledged when
//! the server was killed). The oracles are outside of the engine: the source file, the checksums of fio, a
//! ledger of acknowledged writes, `e2fsck`, and the offline scrub, which reads every stripe of the stopped
//! array. Cases are data; a server that dies or hangs fails its test, which then shows the end of the
//! server's log.
//!
//! `cargo test --test e2e` runs the short set. The long one (`make e2e`) adds the `#[ignore]`d tests: loop
//! devices and mounts, which need root, and the heavy loads. Environment: STRIATE_E2E_KILLS (crashes per
//! level, default 2), STRIATE_E2E_MIB (data that fio writes in a case), STRIATE_E2E_SEED, TMPDIR.

mod advice;
mod bad_input;
mod clients;
mod content;
mod damage;
mod devices;
mod fio;
mod frozen;
mod fuse;
mod grow;
mod hostile;
mod huge;
mod identity;
mod idle_kill;
mod images;
mod kill;
mod lab;
mod ledger;
mod manners;
mod manual;
mod nbd_client;
mod process;
#[cfg(feature = "tls-psk")]
mod psk;
mod rebuild;
mod sandbox;
mod seed;
mod tls;
mod tls_clients;
mod told;
