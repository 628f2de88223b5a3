//! `lost`: lists the data of an array that cannot be computed, in a form for scripts that restore it.
//!
//! ```text
//!     # lost of media, in logical blocks of 512 bytes: first block, blocks
//!     2048 128
//! ```

use crate::cli::Lost;
use crate::control::client::Client;
use crate::documents::{self, LostPiece};
use crate::failure::{Outcome, Result};
use crate::output::{print, print_json};
use crate::rundir::RunDir;

/// Lists lost data. The exit code is 0 if there is none, otherwise 1.
pub fn lost(options: &Lost, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let mut client = Client::connect(run_dir, &options.name)?;
    let status = client.status()?;
    let block = u64::from(status.logical_block_bytes);
    // Lost pieces are whole rows of 4 KiB, and therefore whole blocks.
    let piece = |(offset_bytes, len_bytes): (u64, u64)| LostPiece {
        offset_bytes,
        len_bytes,
        first_block: offset_bytes / block,
        blocks: len_bytes / block,
    };
    let pieces: Vec<LostPiece> = client.lost()?.into_iter().map(piece).collect();
    let outcome = if pieces.is_empty() { Outcome::Fine } else { Outcome::Problem };
    if options.json {
        print_json(&documents::Lost {
            name: &status.name,
            uuid: &status.uuid,
            logical_block_bytes: status.logical_block_bytes,
            lost_bytes: pieces.iter().map(|piece| piece.len_bytes).sum(),
            pieces,
        })?;
    } else {
        let mut text =
            format!("# lost of {}, in logical blocks of {block} bytes: first block, blocks\n", options.name);
        for piece in &pieces {
            text += &format!("{} {}\n", piece.first_block, piece.blocks);
        }
        print(&text)?;
    }
    Ok(outcome)
}
