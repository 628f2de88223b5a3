//! A host as superblocks name it.

use std::fmt;

use uuid::Uuid;

use super::label::Label;

/// The host that an array belongs to. Its id decides; its name is for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    /// Id made from the machine id (machine-id(5)). Nil on a host without one, and in superblocks of programs
    /// that wrote names only.
    pub id: Uuid,
    /// The node name of the host; empty if it has none.
    pub name: Label,
}

impl Host {
    /// The absence of a host: an array with this value belongs to any host.
    pub const ANY: Host = Host { id: Uuid::nil(), name: Label::EMPTY };

    /// Whether an array of this host may be used on `other` without being asked to. If an id is missing,
    /// names decide, although they change with the network (`vm` becomes `vm.example.com`) and two hosts may
    /// have the same name.
    #[must_use]
    pub fn is(&self, other: &Host) -> bool {
        if *self == Host::ANY {
            return true;
        }
        if self.id.is_nil() || other.id.is_nil() { self.name == other.name } else { self.id == other.id }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.simple().to_string();
        match (self.name.is_empty(), self.id.is_nil()) {
            (false, true) => write!(f, "'{}'", self.name),
            (false, false) => write!(f, "'{}' (machine {})", self.name, &id[..8]),
            (true, false) => write!(f, "machine {}", &id[..8]),
            (true, true) => write!(f, "an unnamed host"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_decides_and_the_name_where_there_is_none() {
        let host = |id: u128, name: &str| Host { id: Uuid::from_u128(id), name: Label::new(name).unwrap() };
        for (owner, this, is) in [
            (host(7, "vm"), host(7, "vm.example.com"), true),
            (host(7, "vm"), host(8, "vm"), false),
            (host(0, "vm"), host(8, "vm"), true),
            (host(0, "vm"), host(8, "vm.example.com"), false),
            (host(7, "vm"), host(0, "vm"), true),
            (host(7, "vm"), Host::ANY, false),
            (Host { name: Label::EMPTY, ..host(7, "vm") }, host(7, "vm"), true),
            (Host::ANY, host(8, "vm"), true),
        ] {
            assert_eq!(owner.is(&this), is, "{owner} {this}");
        }
        assert_eq!(host(0, "vm").to_string(), "'vm'");
        assert_eq!(host(0x1234_5678 << 96, "vm").to_string(), "'vm' (machine 12345678)");
    }
}
