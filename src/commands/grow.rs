//! `grow`: grows a stopped array into new space on its members.

use std::path::Path;

use engine::server::{GrowOptions, Grown, grow_offline};

use crate::cli::Grow;
use crate::failure::{Outcome, Result};
use crate::output::{print, print_json};
use crate::rundir::RunDir;
use crate::units::about_size;

use super::scan;

/// Grows the array, and reports the old and the new size. A member that failed meanwhile is a problem; an
/// array that cannot grow is not.
pub fn grow(options: &Grow, run_dir: Option<&Path>) -> Result<Outcome> {
    let members = scan::members(&options.members, options.array.search())?;
    // Without a run directory, no block device was served from here, so none waits for the array.
    let run_dir = RunDir::find(run_dir).ok().flatten().map(|run_dir| run_dir.path().to_path_buf());
    let grown = grow_offline(&GrowOptions { members, foreign_host_ok: options.foreign_host, run_dir })?;
    if options.json {
        print_json(&grown)?;
    } else {
        print(&text(&grown))?;
    }
    Ok(if grown.failed_slots.is_empty() { Outcome::Fine } else { Outcome::Problem })
}

fn text(grown: &Grown) -> String {
    let Grown { name, from_bytes, to_bytes, smallest_slot, smallest_path, .. } = grown;
    let smallest = format!(
        "slot {smallest_slot} ({}), the smallest member, has {}",
        smallest_path.display(),
        about_size(grown.smallest_bytes)
    );
    let limit = if grown.bitmap_is_full {
        format!(
            "its bitmap has no place for more; {} of each member stay unused",
            about_size(grown.unused_bytes)
        )
    } else {
        smallest
    };
    let mut text = if to_bytes > from_bytes {
        format!(
            "grown: {name}: from {} to {} for hosts ({limit})\n",
            about_size(*from_bytes),
            about_size(*to_bytes)
        )
    } else {
        format!("nothing to grow: {name}: {} for hosts ({limit})\n", about_size(*from_bytes))
    };
    for slot in &grown.failed_slots {
        text += &format!(
            "slot {slot} failed: its superblock could not be written: serve the array, and replace it\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let grown = Grown {
            name: "tank".into(),
            from_bytes: 4 << 40,
            to_bytes: 8 << 40,
            smallest_slot: 2,
            smallest_path: "/dev/nvme2n1".into(),
            smallest_bytes: 2 << 40,
            unused_bytes: 4096,
            bitmap_is_full: false,
            failed_slots: vec![],
        };
        assert_eq!(
            text(&grown),
            "grown: tank: from 4.00 TiB to 8.00 TiB for hosts (slot 2 (/dev/nvme2n1), the smallest member, has 2.00 TiB)\n"
        );
        let none = Grown { to_bytes: 4 << 40, bitmap_is_full: true, failed_slots: vec![3], ..grown };
        assert_eq!(
            text(&none),
            "nothing to grow: tank: 4.00 TiB for hosts (its bitmap has no place for more; 4.00 KiB of each member stay unused)\n\
             slot 3 failed: its superblock could not be written: serve the array, and replace it\n"
        );
    }
}
