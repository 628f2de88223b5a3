//! Edits of what is kept on disk and read at a start: assembly, format, start, growth; and of the bitmap.

use super::{Edit, e};

const EPOCHS: &str = "engine/src/assembly/epochs.rs";
const ASSEMBLY_PLAN: &str = "engine/src/assembly/plan.rs";
const ROSTER: &str = "engine/src/assembly/roster.rs";
const CODEC: &str = "engine/src/format/superblock/codec.rs";
const COPIES: &str = "engine/src/format/superblock/copies.rs";
const GROW: &str = "engine/src/start/grow.rs";
const START: &str = "engine/src/start.rs";
const BITMAP_BLOCKS: &str = "engine/src/start/bitmap_blocks.rs";
const BITMAP: &str = "bitmap/src/bitmap.rs";
const BLOCK: &str = "bitmap/src/block.rs";
const BITMAP_SWEEP: &str = "bitmap/src/sweep.rs";

pub(super) const EDITS: &[Edit] = &[
    // assembly, format, start
    e(
        EPOCHS,
        "            entry.state.takes_part() && (self.epoch() == record.epoch.name || self.epoch() == entry.held)",
        "            mutant!(StaleMemberCounts)
                || entry.state.takes_part()
                    && (self.epoch() == record.epoch.name || self.epoch() == entry.held)",
    ),
    e(
        EPOCHS,
        "if !entry.state.takes_part() && is_in_line(member.epoch(), record) =>",
        "if !entry.state.takes_part()
            && is_in_line(member.epoch(), record)
            && !mutant!(ParentUnknown) =>",
    ),
    e(
        EPOCHS,
        "let is_passed = then.held != EpochName::NONE && record.epoch.line.contains(&then.held.id);",
        "let is_passed = then.held != EpochName::NONE
            && record.epoch.line[..if mutant!(LineIsParent) { 1 } else { record.epoch.line.len() }]
                .contains(&then.held.id)
            && !mutant!(CameOnUnknown)
            && !mutant!(ParentUnknown);",
    ),
    e(
        EPOCHS,
        "(record.epoch.line.contains(&epoch.id)",
        "(record.epoch.line[..if mutant!(LineIsParent) { 1 } else { record.epoch.line.len() }]
            .contains(&epoch.id)",
    ),
    e(
        EPOCHS,
        "&& was_passed_by(member, present, record) =>",
        "&& !mutant!(PassedByUnknown)
            && !(mutant!(LineIsParent) && record.epoch.line.contains(&member.epoch().id))
            && was_passed_by(member, present, record) =>",
    ),
    e(EPOCHS, "None if was_passed_by(", "None if !mutant!(PassedByUnknown) && was_passed_by("),
    e(
        EPOCHS,
        "epoch == now.held || record.epoch.line.contains(&epoch.id);",
        "epoch == now.held || !mutant!(LeftLaterUnheard) && record.epoch.line.contains(&epoch.id);",
    ),
    e(
        EPOCHS,
        "None => absent += usize::from(now.state.takes_part()),",
        "None => absent += usize::from(now.state.takes_part() && !mutant!(AbsentUnheard)),",
    ),
    e(
        EPOCHS,
        "&& was_broken_off(member, present, record) =>",
        "&& !mutant!(BrokenOffUnknown)
            && was_broken_off(member, present, record) =>",
    ),
    e(
        ASSEMBLY_PLAN,
        "    if entry.state == SlotState::InSync {",
        "    if entry.state == SlotState::InSync || mutant!(StaleMemberCounts) {",
    ),
    e(
        ROSTER,
        "self.begun && self.seats.iter()",
        "self.begun && (mutant!(CommitTooEarly) || self.seats.iter()",
    ),
    e(
        ROSTER,
        "all(|seat| seat.holds == self.record.epoch.name)",
        "all(|seat| seat.holds == self.record.epoch.name))",
    ),
    e(
        ROSTER,
        "                seat.overwrite = seat.overwrite.other();",
        "                if !mutant!(OneSuperblockCopy) {
                    seat.overwrite = seat.overwrite.other();
                }",
    ),
    e(
        CODEC,
        "    put(&mut block, OFFSET_TAIL_SALT, &salt);",
        "    if !mutant!(SuperblockUnsalted) {
        put(&mut block, OFFSET_TAIL_SALT, &salt);
    }",
    ),
    e(
        CODEC,
        "        entry[SLOT_OFFSET_SALT..].copy_from_slice(&salt);",
        "        if !mutant!(SuperblockUnsalted) {
            entry[SLOT_OFFSET_SALT..].copy_from_slice(&salt);
        }",
    ),
    e(
        START,
        "        let now_lost = written.and(lost);",
        "        let now_lost = if mutant!(CommitTooEarly) { Slots::NONE } else { written.and(lost) };",
    ),
    e(
        EPOCHS,
        "    let is_behind = |epoch: EpochName, moves: u64| {",
        "    if mutant!(OldImageCounts) {
        return false;
    }
    let is_behind = |epoch: EpochName, moves: u64| {",
    ),
    e(
        EPOCHS,
        "member.epoch() == epoch && member.record().moves < moves",
        "member.epoch() == epoch && member.record().moves < moves && !mutant!(MovesNotCounted)",
    ),
    e(COPIES, "if both_valid &&", "if !mutant!(TwoMembersInOne) && both_valid &&"),
    e(
        COPIES,
        "same_moves || superblock.proven;",
        "same_moves || superblock.proven && !mutant!(ProofNeedsBothCopies);",
    ),
    e(
        EPOCHS,
        "witness.found.proven_moves.filter(|_| entry.state.takes_part());",
        "witness.found.proven_moves.filter(|_| entry.state.takes_part() && !mutant!(MovesProveNothing));",
    ),
    e(
        START,
        "        (true, _) => Before::Cut,",
        "        (true, _) if mutant!(UncleanIsClean) => Before::Stop,
        (true, _) => Before::Cut,",
    ),
    e(
        START,
        "            let failed = even_out::even_out(bench, &mut started, &disorder, step)?;",
        "            let failed = if mutant!(NotEvenedOut) {
                Slots::NONE
            } else {
                even_out::even_out(bench, &mut started, &disorder, step)?
            };
            if mutant!(StartGivesUp) && !failed.is_empty() {
                return Err(StartError::Refused(ChangeRefused::ReadOnly));
            }",
    ),
    e(
        BITMAP_BLOCKS,
        "    let newest = valid.max()?;",
        "    let newest = if mutant!(OldestBlockCounts) { valid.min()? } else { valid.max()? };",
    ),
    e(
        BITMAP_BLOCKS,
        "members.iter().any(proves_it)",
        "(mutant!(OlderBlockCounts) || members.iter().any(proves_it))",
    ),
    e(
        START,
        "        for step in even_out::STEPS {",
        "        let mut together = Slots::NONE;
        for step in even_out::STEPS {",
    ),
    e(
        START,
        "            started.leave(bench, failed, options.seed)?;
        }",
        "            if mutant!(StepsTogether) {
                together = together.or(failed);
                started.view.writable = started.view.writable.minus(failed);
            } else {
                started.leave(bench, failed, options.seed)?;
            }
        }
        started.leave(bench, together, options.seed)?;",
    ),
    e(
        BITMAP_BLOCKS,
        "first_generation(started, highest + 1)",
        "first_generation(started, if mutant!(StaleRepairedOtherFirst) { highest } else { highest + 1 })",
    ),
    e(
        BITMAP_BLOCKS,
        "follows.max(of_epoch + follows % PLACES_PER_BLOCK)",
        "if mutant!(GenerationsGoOn) { follows } else { follows.max(of_epoch + follows % PLACES_PER_BLOCK) }",
    ),
    e(START, "        } else if reinforced {", "        } else if reinforced || mutant!(StartInOneCopy) {"),
    e(
        BITMAP_BLOCKS,
        "        Seen::Unknown => false,",
        "        Seen::Unknown => mutant!(UnreadableIsBehind),",
    ),
    e(
        BITMAP_BLOCKS,
        "if !both_places =>",
        "if !both_places || mutant!(WrittenOverIsNeverWritten) =>",
    ),
    e(
        BITMAP_BLOCKS,
        "Err(BlockError::NotABitmapBlock | BlockError::OtherArray(_))",
        "Err(BlockError::NotABitmapBlock | BlockError::OtherArray(_)) if mutant!(NeverWrittenIsBad) => Seen::Unknown,
                Err(BlockError::NotABitmapBlock | BlockError::OtherArray(_))",
    ),
    e(
        BITMAP_BLOCKS,
        "fn load_stale(started: &Started, block: BlockIndex) {
    if started.parity_trusted {",
        "fn load_stale(started: &Started, block: BlockIndex) {
    if started.parity_trusted && !mutant!(StaleIsNotTrusted) {",
    ),
    e(
        START,
        "    let flush: Vec<_> =
        devices.iter()",
        "    if mutant!(GrowWithoutFlush) {
        return Ok(());
    }
    let flush: Vec<_> =
        devices.iter()",
    ),
    e(
        GROW,
        "    let first = record.zones.bitmap_blocks() as u32;",
        "    let mut first = record.zones.bitmap_blocks() as u32;
    if mutant!(GrowWithoutBlocks) {
        first = zones.bitmap_blocks() as u32;
    }",
    ),
    e(
        GROW,
        "    Ok(commit(bench, &mut roster, writes, seed)?)",
        "    let lost = commit(bench, &mut roster, writes, seed)?;
    if mutant!(GrowMarksClean) || mutant!(GrowSettles) && !assembly.unclean {
        let _ended = super::write_superblocks(bench, &roster.stop_clean()?);
    }
    Ok(lost)",
    ),
    // bitmap
    e(
        BITMAP,
        "                Cell::Clean => self.mark_around(stripe),",
        "                Cell::Aged if mutant!(AgedNotTakenBack) => return Begun::Durable,
                Cell::Clean => self.mark_around(stripe),",
    ),
    e(
        BLOCK,
        "let dirty = word::dirty_on_disk(word::from_disk(*image));",
        "let dirty = if mutant!(MarkOfAnother) {
                word::ALL
            } else {
                word::dirty_on_disk(word::from_disk(*image))
            };",
    ),
    e(
        BITMAP_SWEEP,
        "            if !locks.is_free(index as u64 * LANES + u64::from(lane)) {",
        "            if !locks.is_free(index as u64 * LANES + u64::from(lane)) && !mutant!(SweepIgnoresOwner) {",
    ),
];
