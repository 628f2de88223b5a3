//! The scenario that this project began with.
//!
//! A stripe was never written, so its parity is whatever the disks held before. Then a small write comes.
//! Done as read-modify-write, it leaves a parity as meaningless as before. If the member that was just
//! written is then lost, reading it back reconstructs noise. Here: members full of noise, an array that
//! starts Unwritten, one 4 KiB write to one strip of each stripe, and the loss of every member (RAID-5) and
//! of every pair of members (RAID-6), each on an array of its own.
//!
//! With `n` members and `d` data strips, stripe `t` gets its write in data strip `t / n`, for `t` below `n *
//! d`. Rotation has period `n`, so every data strip is written in every rotation. For each slot that is lost
//! there are therefore `d` stripes whose written strip was on it. The next `n * d` stripes get the same
//! writes after they were written in full and discarded, which makes them Unwritten again.

use std::path::PathBuf;

use super::dice::Dice;
use super::load::{BLOCK_BYTES, compare};
use super::stage::Stage;
use crate::failure::{Context, Failure, Result};

/// A small chunk, so that a lost strip is read quickly.
const CHUNK_BYTES: usize = 16 << 10;

/// The totals over all arrays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeedReport {
    /// Arrays made; on each, one set of members is lost.
    pub losses: u64,
    /// Small writes into unwritten and discarded stripes.
    pub writes: u64,
    /// Bytes read back after the loss.
    pub bytes: u64,
}

/// Plays the scenario for every single member of `members`, or for every pair, depending on the level.
pub fn play(stage: &Stage, level: u8, members: usize, dice: &mut Dice) -> Result<SeedReport> {
    let mut report = SeedReport::default();
    let noise = noise(dice);
    for lost in losses(level, members) {
        play_one(stage, level, members, &lost, &noise, dice, &mut report).map_err(|failure| {
            Failure::new(format!("RAID-{level} without slots {lost:?}: {}", failure.line()))
        })?;
    }
    Ok(report)
}

/// The content of a used disk: bytes that are not zeros and do not repeat.
fn noise(dice: &mut Dice) -> Vec<u8> {
    let mut noise = vec![0; 8 << 20];
    dice.fill(&mut noise);
    noise
}

/// The largest sets of slots that the level can lose.
fn losses(level: u8, members: usize) -> Vec<Vec<usize>> {
    match level {
        5 => (0..members).map(|slot| vec![slot]).collect(),
        _ => (0..members).flat_map(|one| (one + 1..members).map(move |other| vec![one, other])).collect(),
    }
}

fn play_one(
    stage: &Stage,
    level: u8,
    members: usize,
    lost: &[usize],
    noise: &[u8],
    dice: &mut Dice,
    report: &mut SeedReport,
) -> Result<()> {
    let name = "seed";
    let paths: Vec<PathBuf> = (0..members).map(|slot| stage.file(&format!("seed{slot}"))).collect();
    for (slot, path) in paths.iter().enumerate() {
        let mut content = noise.to_vec();
        content.rotate_left(slot * 12_345);
        std::fs::write(path, content).context(|| format!("cannot write {}", path.display()))?;
    }
    let (level_text, chunk_text) = (level.to_string(), CHUNK_BYTES.to_string());
    let mut words: Vec<PathBuf> =
        ["create", name, "--level", &level_text, "--chunk", &chunk_text, "--init", "lazy"]
            .map(PathBuf::from)
            .into();
    words.extend_from_slice(&paths);
    stage.run(&words)?;

    let server = stage.serve(name, &paths)?;
    let mut client = server.connect()?;
    let strips = members - usize::from(level - 4);
    let half_bytes = members * strips * strips * CHUNK_BYTES;
    client.write(half_bytes as u64, &noise[..half_bytes]).context(|| "cannot write".into())?;
    let discarded = u32::try_from(half_bytes).context(|| "too much to discard".into())?;
    client.trim(half_bytes as u64, discarded).context(|| "cannot discard".into())?;

    let mut expected = vec![0; 2 * half_bytes];
    for stripe in 0..2 * members * strips {
        let strip = stripe / members % strips;
        let offset = (stripe * strips + strip) * CHUNK_BYTES + BLOCK_BYTES;
        let data = &mut expected[offset..offset + BLOCK_BYTES];
        dice.fill(data);
        client.write(offset as u64, data).context(|| "cannot write".into())?;
        report.writes += 1;
    }
    for slot in lost {
        stage.run(&["fail", name, &slot.to_string()])?;
    }
    let mut found = vec![0; expected.len()];
    client.read(0, &mut found).context(|| "cannot read back".into())?;
    compare(&found, &expected, 0)?;
    report.bytes += found.len() as u64;
    report.losses += 1;
    client.disconnect().context(|| "cannot disconnect".into())?;
    server.stop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_and_every_pair() {
        assert_eq!(losses(5, 3), [[0], [1], [2]]);
        assert_eq!(losses(6, 4), [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
    }
}
