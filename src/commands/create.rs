//! `create`: makes an array and reports it.

use engine::format::Shape;
use engine::server::{CreateOptions, Progress, create as engine_create};
use engine::status::RouteKind;

use crate::cli::Create;
use crate::documents::Created;
use crate::failure::{Failure, Outcome, Result};
use crate::meter::Meter;
use crate::output::{print, print_json};
use crate::units::{about_size, exact_size};

/// Makes the array and reports its size, its init and the routes of its members.
pub fn create(options: &Create) -> Result<Outcome> {
    let shape = Shape { level: options.level, members: options.members.len(), chunk_bytes: options.chunk };
    shape.check().map_err(|error| Failure::usage(error.to_string()))?;
    let engine_options = CreateOptions {
        name: options.name.to_string(),
        level: options.level,
        chunk_bytes: options.chunk,
        members: options.members.clone(),
        file_bytes: options.size,
        init: options.init.into(),
        force: options.force,
    };
    let mut meter = Meter::new(format!("{}: zeroing", options.name));
    let created = engine_create(&engine_options, &mut |Progress { done_bytes, total_bytes }| {
        meter.update(done_bytes, total_bytes);
    });
    drop(meter);
    let created = created?;
    if options.json {
        print_json(&Created {
            name: options.name.as_str(),
            uuid: &created.uuid,
            level: options.level.number(),
            chunk_bytes: options.chunk,
            members: options.members.len(),
            size_bytes: created.size_bytes,
            init: created.init,
            routes: &created.routes,
        })?;
    } else {
        print(&format!(
            "created: {}: RAID-{} of {} members, chunk {}, {} for hosts, init {}, uuid {}\n",
            options.name,
            options.level.number(),
            options.members.len(),
            exact_size(options.chunk.into()),
            about_size(created.size_bytes),
            created.init,
            created.uuid,
        ))?;
        // The route of a file is not worth a line.
        for (path, route) in options.members.iter().zip(&created.routes) {
            if route.kind != RouteKind::File {
                print(&format!("{}: by {route}\n", path.display()))?;
            }
        }
    }
    Ok(Outcome::Fine)
}
