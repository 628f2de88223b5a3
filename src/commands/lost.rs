//! `lost`: the data of an array that cannot be computed, as a script that restores it needs it.
//!
//! ```text
//!     # lost of media, in logical blocks of 512 bytes: first block, blocks
//!     2048 128
//! ```

use serde::Serialize;

use crate::cli::Lost;
use crate::control::client::Client;
use crate::failure::{Outcome, Result};
use crate::output::{print, print_json};
use crate::rundir::RunDir;

/// The answer as JSON.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    uuid: &'a str,
    logical_block_bytes: u32,
    lost_bytes: u64,
    pieces: Vec<Piece>,
}

#[derive(Serialize)]
struct Piece {
    offset_bytes: u64,
    len_bytes: u64,
    /// The first byte, in logical blocks.
    first_block: u64,
    /// The length in logical blocks.
    blocks: u64,
}

/// Lists lost data. The exit code is 0 if there is none, else 1.
pub fn lost(options: &Lost, run_dir: Option<&RunDir>) -> Result<Outcome> {
    let mut client = Client::connect(run_dir, &options.name)?;
    let status = client.status()?;
    let block = u64::from(status.logical_block_bytes);
    // Lost pieces are whole rows of 4 KiB, and so whole blocks.
    let piece = |(offset_bytes, len_bytes): (u64, u64)| Piece {
        offset_bytes,
        len_bytes,
        first_block: offset_bytes / block,
        blocks: len_bytes / block,
    };
    let pieces: Vec<Piece> = client.lost()?.into_iter().map(piece).collect();
    let outcome = if pieces.is_empty() { Outcome::Fine } else { Outcome::Problem };
    if options.json {
        print_json(&Report {
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
