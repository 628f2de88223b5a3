//! The identity of this host in superblocks.

use uuid::Uuid;

use crate::format::host::Host;
use crate::format::label::{LABEL_BYTES_MAX, Label};

/// Files that may hold the machine id, see machine-id(5).
const MACHINE_ID_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// Namespace of host ids. A raw machine id must not be disclosed (machine-id(5)), and members travel to other
/// hosts.
const HOST_ID_NAMESPACE: Uuid = Uuid::from_u128(0x9bd3_5e0c_6f3a_4f0b_8a57_2c1e_71d4_60aa);

/// The host that this process runs on, for superblocks.
pub(super) fn this_host() -> Host {
    let text = MACHINE_ID_FILES.iter().find_map(|file| std::fs::read_to_string(file).ok());
    Host { id: host_id(&text.unwrap_or_default()), name: host_name() }
}

/// The id of the host with this machine id; nil if the host has none yet ("uninitialized", an empty file).
fn host_id(machine_id: &str) -> Uuid {
    let machine = Uuid::try_parse(machine_id.trim()).unwrap_or(Uuid::nil());
    if machine.is_nil() { machine } else { Uuid::new_v5(&HOST_ID_NAMESPACE, machine.as_bytes()) }
}

/// The node name, without characters that a label cannot hold, and cut to a label's length.
fn host_name() -> Label {
    let node = rustix::system::uname();
    let name: String = node
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || "._-".contains(*letter))
        .take(LABEL_BYTES_MAX)
        .collect();
    Label::new(&name).unwrap_or(Label::EMPTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_id_of_its_machine_and_does_not_tell_it() {
        let machine = "3d1219c7c4c5404aaa1f6d2a48adfda4";
        let id = host_id(&format!("{machine}\n"));
        assert_eq!(id.to_string(), "bddb47c5-1259-5bbe-a017-7188a46c5b8f");
        for none in ["", "uninitialized\n", "00000000000000000000000000000000"] {
            assert!(host_id(none).is_nil(), "{none}");
        }
    }
}
