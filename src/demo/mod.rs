//! `demo`: the whole story, on sparse files, in a minute, without root and without drives.
//!
//! ```text
//!     mod      the story              archive   the real data        dice   repeatable random numbers
//!     stage    its directory, its     load      writes in flight,    seed   the scenario that the
//!              servers, its output              and the oracle              project began with
//! ```
//! The demo runs this same program as `striate create`, `serve` and so on, in processes of their own, because
//! a server has to be killed. It acts as host and operator, and uses nothing of the engine. The demo ends at
//! the first wrong byte, with exit code 1.

use std::path::PathBuf;
use std::time::Duration;

use engine::status::{ArrayStatus, Health};
use rustix::process::{Signal, kill_process};

use crate::cli::Demo;
use crate::documents::Told;
use crate::failure::{Context, Failure, Outcome, Result};
use crate::nbd_client::{Client, NbdError};
use crate::output::print_json;
use crate::units::{about_rate, about_size, grouped};

use archive::Archive;
use dice::Dice;
use load::{LoadReport, Shadow};
use stage::{Server, Stage, Teller};

mod archive;
mod dice;
mod load;
mod seed;
mod stage;

const NAME: &str = "demo";
const MEMBERS: usize = 5;
const MEMBER_SIZE: &str = "64M";

/// The slot of the member that fails.
const LOST_SLOT: usize = 2;

/// How long writes go on before an event, and after it.
const LOAD_TIME: Duration = Duration::from_millis(700);

/// Runs the demo from beginning to end.
pub fn run(options: &Demo) -> Result<Outcome> {
    let archive = Archive::of_system(options.source.as_deref())?;
    let stage = Stage::new(options.dir.as_deref(), options.keep)?;
    let mut teller = Teller::new(options.json);
    let mut dice = Dice::new(options.seed);
    let members: Vec<PathBuf> = (0..MEMBERS).map(|slot| stage.file(&format!("member{slot}"))).collect();
    let mut play = Play { stage: &stage, archive: &archive, members, shadow: Shadow::zeros(0)? };

    let server = play.create(&mut teller)?;
    let server = play.kill_while_healthy(server, &mut teller, &mut dice)?;
    let server = play.fail_while_writing(server, &mut teller, &mut dice)?;
    let server = play.kill_while_degraded(server, &mut teller, &mut dice)?;
    play.replace_and_check(server, &mut teller)?;
    seed_scenario(&stage, &mut teller, &mut dice)?;

    let seconds = teller.elapsed().as_secs_f64();
    teller.chapter(&format!("All of it right, in {seconds:.1} s."))?;
    if options.json {
        print_json(&Told { seed: options.seed, seconds })?;
    }
    Ok(Outcome::Fine)
}

/// The condition that ends a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The action on the array has been carried out.
    Acted,
    /// The connection has broken.
    Broken,
}

/// The state of the main story.
struct Play<'a> {
    stage: &'a Stage,
    archive: &'a Archive,
    /// Paths in slot order; the lost one is replaced in the end.
    members: Vec<PathBuf>,
    /// The content that the device must have.
    shadow: Shadow,
}

impl Play<'_> {
    fn create(&mut self, teller: &mut Teller) -> Result<Server> {
        teller.chapter(&format!(
            "A RAID-5 of {MEMBERS} sparse files in {}",
            self.stage.directory().display()
        ))?;
        let mut words: Vec<PathBuf> =
            ["create", NAME, "--level", "5", "--size", MEMBER_SIZE].map(PathBuf::from).into();
        words.extend_from_slice(&self.members);
        let said = self.stage.run(&words)?;
        teller.done(said.trim())?;
        let server = self.stage.serve(NAME, &self.members)?;
        let mut client = server.connect()?;
        self.shadow = Shadow::zeros(client.size_bytes())?;
        if self.archive.bytes.len() * 2 > self.shadow.bytes.len() {
            return Err(Failure::new("the device is too small for the archive"));
        }
        teller.done(&format!("served over NBD, ready after {} ms", server.ready_after.as_millis()))?;

        let started = std::time::Instant::now();
        let bytes = &self.archive.bytes;
        store(&mut client, bytes).context(|| "cannot store the archive".into())?;
        self.shadow.bytes[..bytes.len()].copy_from_slice(bytes);
        let rate = bytes.len() as f64 / started.elapsed().as_secs_f64();
        teller.done(&format!(
            "stored {} files of {} as an archive of {}, at {}",
            grouped(self.archive.files),
            self.archive.source.display(),
            about_size(bytes.len() as u64),
            about_rate(rate as u64),
        ))?;
        self.verify(&server, teller)?;
        Ok(server)
    }

    fn kill_while_healthy(&mut self, server: Server, teller: &mut Teller, dice: &mut Dice) -> Result<Server> {
        teller.chapter("The server is killed (SIGKILL) in the middle of writes")?;
        self.write_until_killed(server, teller, dice)?;
        let server = self.stage.serve(NAME, &self.members)?;
        teller.done(&format!("started again, ready after {} ms", server.ready_after.as_millis()))?;
        self.settle(&server, teller)?;
        let before = self.stage.status(NAME)?;
        self.stage.run(&["wait", NAME])?;
        let after = self.stage.status(NAME)?;
        expect_health(&after, Health::Optimal)?;
        if after.cells.need_sync > 0 {
            return Err(Failure::new(format!("{} stripes were not resynced", after.cells.need_sync)));
        }
        let jobs: u64 = before.background.iter().map(|job| job.total_stripes).sum();
        teller.done(&match jobs {
            0 => "resynced, before one could look".into(),
            jobs => format!("resynced what was being written: {} stripes were marked", grouped(jobs)),
        })?;
        self.verify(&server, teller)?;
        Ok(server)
    }

    fn fail_while_writing(&mut self, server: Server, teller: &mut Teller, dice: &mut Dice) -> Result<Server> {
        teller.chapter(&format!("A member fails (slot {LOST_SLOT}) while writes go on"))?;
        let report = self.load_while(&server, dice, Until::Acted, || {
            std::thread::sleep(LOAD_TIME);
            let words = ["fail", NAME, &LOST_SLOT.to_string()];
            let said = self.stage.run(&words);
            std::thread::sleep(LOAD_TIME);
            said.map(|_| ())
        })?;
        if report.open > 0 {
            return Err(Failure::new(format!("the connection broke: {}", server.log_tail())));
        }
        teller.done(&format!("{}, none refused", told(&report)))?;
        expect_health(&self.stage.status(NAME)?, Health::NoRedundancy)?;
        self.verify(&server, teller)?;
        Ok(server)
    }

    fn kill_while_degraded(
        &mut self,
        server: Server,
        teller: &mut Teller,
        dice: &mut Dice,
    ) -> Result<Server> {
        teller.chapter("The server is killed again, a member short")?;
        self.write_until_killed(server, teller, dice)?;
        self.members.remove(LOST_SLOT);
        let server = self.stage.serve(NAME, &self.members)?;
        teller.done(&format!(
            "started again on four members, ready after {} ms",
            server.ready_after.as_millis()
        ))?;
        self.stage.run(&["wait", NAME])?;
        self.settle(&server, teller)?;
        let mut client = server.connect()?;
        let refused = self.shadow.verify(&mut client)?;
        if refused.is_empty() {
            teller.done("every byte is right")?;
        } else {
            self.restore_refused(&mut client, &refused, teller)?;
        }
        Ok(server)
    }

    /// Writes the refused blocks again, as an operator would from a copy (here, the shadow). The array
    /// refuses blocks of the lost member in stripes whose parity was being written; it does not guess them.
    fn restore_refused(
        &self,
        client: &mut Client,
        refused: &[std::ops::Range<usize>],
        teller: &mut Teller,
    ) -> Result<()> {
        let status = self.stage.status(NAME)?;
        let bytes: usize = refused.iter().map(ExactSizeIterator::len).sum();
        teller.done("no byte is wrong")?;
        teller.note(&format!(
            "{} of the lost member are refused, not guessed: {} stripes whose parity was in doubt",
            about_size(bytes as u64),
            grouped(status.cells.lost),
        ))?;
        let stripe_bytes = status.chunk_bytes as usize * (MEMBERS - 1);
        let mut restored = 0;
        for range in refused {
            let first = (range.start / stripe_bytes * stripe_bytes).max(restored);
            restored = range.end.next_multiple_of(stripe_bytes).min(self.shadow.bytes.len()).max(first);
            for at in (first..restored).step_by(stripe_bytes) {
                let end = restored.min(at + stripe_bytes);
                client
                    .write(at as u64, &self.shadow.bytes[at..end])
                    .context(|| format!("cannot restore at {at}"))?;
            }
        }
        let in_doubt = self.stage.status(NAME)?.cells.need_sync;
        if in_doubt > 0 {
            return Err(Failure::new(format!(
                "{in_doubt} stripes are still in doubt after they were restored"
            )));
        }
        teller.done("restored from the source, and nothing is in doubt")
    }

    fn replace_and_check(&mut self, server: Server, teller: &mut Teller) -> Result<()> {
        teller.chapter("A new member takes the lost one's place")?;
        let spare = self.stage.file("spare");
        let file = std::fs::File::create(&spare).context(|| format!("cannot make {}", spare.display()))?;
        let size = self.stage.file("member0").metadata().context(|| "cannot look at a member".into())?.len();
        file.set_len(size).context(|| format!("cannot make {}", spare.display()))?;
        let slot = LOST_SLOT.to_string();
        let spare_text = spare.to_string_lossy();
        let started = std::time::Instant::now();
        self.stage.run(&["replace", NAME, &slot, &spare_text])?;
        self.stage.run(&["wait", NAME])?;
        let rate = size as f64 / started.elapsed().as_secs_f64();
        expect_health(&self.stage.status(NAME)?, Health::Optimal)?;
        self.members.insert(LOST_SLOT, spare);
        teller.done(&format!("rebuilt {} at {}", about_size(size), about_rate(rate as u64)))?;
        self.verify(&server, teller)?;
        server.stop()?;
        let mut words = vec![PathBuf::from("scrub")];
        words.extend_from_slice(&self.members);
        let said = self.stage.run(&words)?;
        teller.done(&format!("stopped cleanly; {}", said.trim()))
    }

    fn write_until_killed(&mut self, mut server: Server, teller: &mut Teller, dice: &mut Dice) -> Result<()> {
        let pid = server.pid();
        let report = self.load_while(&server, dice, Until::Broken, || {
            std::thread::sleep(2 * LOAD_TIME);
            let pid = pid.ok_or_else(|| Failure::new("the server has no process"))?;
            kill_process(pid, Signal::KILL).context(|| "cannot kill the server".into())
        })?;
        server.wait()?;
        teller.done(&format!("{}, {} in flight at the kill", told(&report), report.open))
    }

    /// Writes random data while `act` runs in a thread of its own.
    fn load_while(
        &mut self,
        server: &Server,
        dice: &mut Dice,
        until: Until,
        act: impl FnOnce() -> Result<()> + Send,
    ) -> Result<LoadReport> {
        let mut client = server.connect()?;
        // Writes touch only the last, partial MiB of the archive's area and what follows, so that the archive
        // stays.
        let area = self.archive.bytes.len().next_multiple_of(1 << 20)..self.shadow.bytes.len();
        let shadow = &mut self.shadow;
        std::thread::scope(|scope| {
            let actor = scope.spawn(act);
            let go_on = || match until {
                Until::Acted => !actor.is_finished(),
                Until::Broken => true,
            };
            let report = shadow.load(&mut client, dice, area, go_on);
            let acted = actor.join().unwrap_or_else(|_| Err(Failure::new("the demo panicked")));
            let report = report?;
            acted.map(|()| report)
        })
    }

    fn settle(&mut self, server: &Server, teller: &mut Teller) -> Result<()> {
        let settled = self.shadow.settle(&mut server.connect()?)?;
        let refused = if settled.refused > 0 {
            format!(", {} refused", grouped(settled.refused))
        } else {
            String::new()
        };
        teller.done(&format!(
            "of the interrupted blocks {} are new, {} old{refused}, none anything else",
            grouped(settled.new),
            grouped(settled.old),
        ))
    }

    /// Checks every byte of the device, and every file of the archive against its original.
    fn verify(&self, server: &Server, teller: &mut Teller) -> Result<()> {
        let mut client = server.connect()?;
        let started = std::time::Instant::now();
        let refused = self.shadow.verify(&mut client)?;
        if let Some(range) = refused.first() {
            return Err(Failure::new(format!("cannot read at {}: refused", range.start)));
        }
        let rate = self.shadow.bytes.len() as f64 / started.elapsed().as_secs_f64();
        let mut stored = vec![0; self.archive.bytes.len().next_multiple_of(load::BLOCK_BYTES)];
        client.read(0, &mut stored).context(|| "cannot read the archive".into())?;
        let compared = self.archive.compare_files(&stored[..self.archive.bytes.len()])?;
        let changed = if compared.changed > 0 {
            format!(" ({} changed at their source meanwhile)", grouped(compared.changed))
        } else {
            String::new()
        };
        teller.done(&format!(
            "every byte of {} is right, at {}; {} files equal their originals{changed}",
            about_size(self.shadow.bytes.len() as u64),
            about_rate(rate as u64),
            grouped(compared.equal),
        ))?;
        client.disconnect().context(|| "cannot disconnect".into())
    }
}

fn seed_scenario(stage: &Stage, teller: &mut Teller, dice: &mut Dice) -> Result<()> {
    teller.chapter(
        "Small writes into stripes that were never written, on disks full of noise; then the loss of",
    )?;
    for (level, members, what) in [(5, 5, "every member"), (6, 6, "every pair of members")] {
        let report = seed::play(stage, level, members, dice)?;
        teller.done(&format!(
            "{what} of a RAID-{level} of {members}: {} arrays, {} writes, {} read back right",
            report.losses,
            grouped(report.writes),
            about_size(report.bytes),
        ))?;
    }
    Ok(())
}

fn expect_health(status: &ArrayStatus, health: Health) -> Result<()> {
    if status.health == health {
        return Ok(());
    }
    Err(Failure::new(format!("the array is {:?} and should be {health:?}", status.health)))
}

/// Describes a load: `1,234 writes of 45.6 MiB in all acknowledged, at 78.9 MiB/s`.
fn told(report: &LoadReport) -> String {
    let rate = report.bytes as f64 / report.elapsed.as_secs_f64().max(1e-3);
    format!(
        "{} writes of {} in all acknowledged, at {}",
        grouped(report.writes),
        about_size(report.bytes),
        about_rate(rate as u64)
    )
}

/// Writes `bytes` from the start of the device, a few pieces at a time, and flushes. The last piece is padded
/// with zeros to whole blocks.
fn store(client: &mut Client, bytes: &[u8]) -> std::result::Result<(), NbdError> {
    const PIECE_BYTES: usize = 1 << 20;
    const PIECES_IN_FLIGHT: usize = 8;
    let mut in_flight = 0;
    for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
        let mut padded = piece.to_vec();
        padded.resize(piece.len().next_multiple_of(load::BLOCK_BYTES), 0);
        client.start_write((index * PIECE_BYTES) as u64, &padded)?;
        in_flight += 1;
        if in_flight == PIECES_IN_FLIGHT {
            client.finish_write()?.1.map_err(NbdError::Refused)?;
            in_flight -= 1;
        }
    }
    for _ in 0..in_flight {
        client.finish_write()?.1.map_err(NbdError::Refused)?;
    }
    client.flush()
}
