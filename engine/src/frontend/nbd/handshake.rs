//! The handshake: from a client's first byte until it may send commands.
//!
//! Fixed newstyle only. The handshake blocks, on a thread of its own that ends with it. The cost of a client
//! is bounded: its time by one deadline for the whole handshake, its memory by the longest option that is
//! examined, and its work by the number of options.
//!
//! - The export is found by its name and by the empty name. Its name followed by `:ro` selects another,
//!   read-only export, for example for a backup while hosts write.
//! - Structured replies can be negotiated, and after them the metadata contexts of `map`. Extended headers
//!   are not supported, and the client is told so.
//! - After STARTTLS the negotiation begins anew, encrypted (`encryption`): nothing that was agreed before
//!   counts.
//! - A client is told that it may proceed only if a reactor has a seat for it.
//! - Nothing is read ahead: the byte after the last option belongs to the reactor.

use std::io::{self, Read};

use super::ExportInfo;
use super::admission::{ReplyStyle, Terms};
use super::door::Seat;
use super::encryption::{Security, Wire};
use super::limits::{OPTION_BYTES_MAX, OPTION_DRAIN_BYTES_MAX, OPTIONS_MAX};
use super::map::{CONTEXTS, Contexts};
use super::negotiation::{
    ExportQuery, FIXED_NEWSTYLE, INIT_MAGIC, NO_ZEROES, OPTION_HEADER_BYTES, OPTION_MAGIC, PADDING_BYTES,
    ReplyType, meta_context_queries, option, option_header, push_export, push_reply, transmission_flags,
};

/// The ways in which clients can open the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Export {
    /// The array with changes, unless it is served read-only.
    Whole,
    /// The array without changes.
    ReadOnly,
}

/// Suffix of the name of the read-only export.
const READ_ONLY_SUFFIX: &str = ":ro";

/// The result of a handshake that did not end by an error of the socket.
pub(super) enum Outcome {
    /// The client may send commands.
    Welcome(Seat, Terms),
    /// The client begins a session of TLS now, and negotiates anew in it.
    Encrypt,
    /// The client left, or cannot be served, or does not speak the protocol.
    Goodbye,
}

/// A client that has been greeted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeted {
    /// Whether the client wants the padding after `EXPORT_NAME`.
    padded: bool,
}

/// Greets a client; `None` if it does not speak the protocol.
pub(super) fn greet(wire: &mut impl Wire) -> io::Result<Option<Greeted>> {
    let mut hello = Vec::with_capacity(18);
    hello.extend(INIT_MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    wire.write_all(&hello)?;
    let mut client_flags = [0; 4];
    wire.read_exact(&mut client_flags)?;
    let client_flags = u32::from_be_bytes(client_flags);
    let is_known = client_flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) == 0;
    Ok(is_known.then_some(Greeted { padded: client_flags & u32::from(NO_ZEROES) == 0 }))
}

/// Negotiates over `wire` with a client that has been greeted. `seat` finds a seat when the client asks to
/// proceed.
pub(super) fn negotiate<W: Wire>(
    wire: &mut W,
    client: Greeted,
    security: Security,
    export: &ExportInfo,
    seat: &dyn Fn() -> Option<Seat>,
) -> io::Result<Outcome> {
    let mut talk = Talk {
        wire,
        export,
        seat,
        security,
        padded: client.padded,
        terms: Terms::FIRST,
        contexts_of: Export::Whole,
        reply: Vec::new(),
    };
    for _ in 0..OPTIONS_MAX {
        if let Some(outcome) = talk.option()? {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Goodbye)
}

/// A handshake after the greeting.
struct Talk<'a, W> {
    wire: &'a mut W,
    export: &'a ExportInfo,
    seat: &'a dyn Fn() -> Option<Seat>,
    security: Security,
    /// Whether the client wants the padding after `EXPORT_NAME`.
    padded: bool,
    /// The terms negotiated so far.
    terms: Terms,
    /// The export for which the contexts were chosen.
    contexts_of: Export,
    /// The bytes to send at the end of the current option.
    reply: Vec<u8>,
}

impl<W: Wire> Talk<'_, W> {
    /// Receives one option and answers it. Returns the outcome if the option was the last.
    fn option(&mut self) -> io::Result<Option<Outcome>> {
        let mut header = [0; OPTION_HEADER_BYTES];
        self.wire.read_exact(&mut header)?;
        let Some((option, len_bytes)) = option_header(&header) else {
            return Ok(Some(Outcome::Goodbye));
        };
        if len_bytes > OPTION_DRAIN_BYTES_MAX {
            return Ok(Some(Outcome::Goodbye));
        }
        self.reply.clear();
        let outcome = if len_bytes > OPTION_BYTES_MAX {
            io::copy(&mut Read::by_ref(self.wire).take(len_bytes.into()), &mut io::sink())?;
            self.too_long(option)
        } else {
            let mut data = vec![0; len_bytes as usize];
            self.wire.read_exact(&mut data)?;
            self.answer(option, &data)
        };
        self.wire.write_all(&self.reply)?;
        Ok(outcome)
    }

    /// Refuses an option that is too long. `EXPORT_NAME` has no error replies, so after that option the
    /// client is disconnected.
    fn too_long(&mut self, option: u32) -> Option<Outcome> {
        self.push(option, ReplyType::TooBig, "the option is too long");
        (option == option::EXPORT_NAME).then(|| {
            self.reply.clear();
            Outcome::Goodbye
        })
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Option<Outcome> {
        match option {
            option::START_TLS => return self.start_tls(data),
            option::EXPORT_NAME if self.security == Security::Required => return Some(Outcome::Goodbye),
            option::EXPORT_NAME => return Some(self.export_name(data)),
            option::ABORT => {
                self.push(option, ReplyType::Ack, "");
                return Some(Outcome::Goodbye);
            }
            _ if self.security == Security::Required => {
                self.push(option, ReplyType::TlsRequired, "this server speaks TLS only: begin it first");
            }
            option::GO => return self.info(option, data),
            option::INFO => drop(self.info(option, data)),
            option::LIST => self.list(option, data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.terms.style = ReplyStyle::Structured;
                self.push(option, ReplyType::Ack, "");
            }
            option::STRUCTURED_REPLY => self.push(option, ReplyType::Invalid, "the option has no data"),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, data),
            _ => self.push(option, ReplyType::Unsupported, "the option is not supported"),
        }
        None
    }

    /// Answers STARTTLS: acknowledges it, or refuses it with a reason.
    fn start_tls(&mut self, data: &[u8]) -> Option<Outcome> {
        let (reply, text) = match self.security {
            _ if !data.is_empty() => (ReplyType::Invalid, "the option has no data"),
            Security::NotOffered => (ReplyType::Unsupported, "this server has no TLS"),
            Security::InUse => (ReplyType::Invalid, "TLS is in use already"),
            Security::Offered | Security::Required => (ReplyType::Ack, ""),
        };
        self.push(option::START_TLS, reply, text);
        (reply == ReplyType::Ack).then_some(Outcome::Encrypt)
    }

    /// Answers `EXPORT_NAME`, the old way to choose an export. It has no error replies; the only way to
    /// refuse is to disconnect.
    fn export_name(&mut self, name: &[u8]) -> Outcome {
        let Some(export) = self.find(name) else { return Outcome::Goodbye };
        let Some(seat) = (self.seat)() else { return Outcome::Goodbye };
        self.reply.extend(self.export.size_bytes.to_be_bytes());
        self.reply.extend(self.flags(export).to_be_bytes());
        if self.padded {
            self.reply.extend([0; PADDING_BYTES]);
        }
        Outcome::Welcome(seat, self.terms_for(export))
    }

    /// Answers `INFO` and `GO`. After `GO` the client may be welcome.
    fn info(&mut self, option: u32, data: &[u8]) -> Option<Outcome> {
        let Some(query) = ExportQuery::parse(data) else {
            self.push(option, ReplyType::Invalid, "the option's data does not add up");
            return None;
        };
        let Some(chosen) = self.find(query.name) else {
            self.push(option, ReplyType::Unknown, "there is no export of that name");
            return None;
        };
        let mut outcome = None;
        if option == option::GO {
            let Some(seat) = (self.seat)() else {
                self.push(option, ReplyType::Policy, "too many connections; try again when one has ended");
                return None;
            };
            outcome = Some(Outcome::Welcome(seat, self.terms_for(chosen)));
        }
        let (name, flags) = (self.name_of(chosen), self.flags(chosen));
        push_export(&mut self.reply, option, &query, self.export, &name, flags);
        self.push(option, ReplyType::Ack, "");
        outcome
    }

    fn list(&mut self, option: u32, data: &[u8]) {
        if !data.is_empty() {
            return self.push(option, ReplyType::Invalid, "the option has no data");
        }
        let others = (!self.export.read_only).then_some(Export::ReadOnly);
        for export in std::iter::once(Export::Whole).chain(others) {
            let name = self.name_of(export);
            let length = (name.len() as u32).to_be_bytes();
            let description = self.export.description.as_bytes();
            push_reply(&mut self.reply, option, ReplyType::Server, &[&length, name.as_bytes(), description]);
        }
        self.push(option, ReplyType::Ack, "");
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) {
        let is_set = option == option::SET_META_CONTEXT;
        let early = is_set && self.terms.style == ReplyStyle::Simple;
        if is_set {
            self.terms.contexts = Contexts::NONE;
        }
        let Some((name, queries)) = meta_context_queries(data) else {
            return self.push(option, ReplyType::Invalid, "the option's data does not add up");
        };
        if early {
            return self.push(option, ReplyType::Invalid, "negotiate structured replies first");
        }
        let Some(export) = self.find(name) else {
            return self.push(option, ReplyType::Unknown, "there is no export of that name");
        };
        for context in CONTEXTS {
            // A list without queries asks for all contexts; a choice must use full names.
            let is_meant = if is_set {
                queries.iter().any(|query| *query == context.name().as_bytes())
            } else {
                queries.is_empty() || queries.iter().any(|query| context.answers(query))
            };
            if !is_meant {
                continue;
            }
            if is_set {
                self.terms.contexts.add(context);
                self.contexts_of = export;
            }
            let (id, name) = (context.id().to_be_bytes(), context.name().as_bytes());
            push_reply(&mut self.reply, option, ReplyType::MetaContext, &[&id, name]);
        }
        self.push(option, ReplyType::Ack, "");
    }

    /// Finds the export with a name.
    fn find(&self, name: &[u8]) -> Option<Export> {
        let own = self.export.name.as_bytes();
        match name.strip_prefix(own) {
            _ if name.is_empty() => Some(Export::Whole),
            Some(b"") => Some(Export::Whole),
            Some(rest) if rest == READ_ONLY_SUFFIX.as_bytes() => Some(Export::ReadOnly),
            Some(_) | None => None,
        }
    }

    fn name_of(&self, export: Export) -> String {
        match export {
            Export::Whole => self.export.name.clone(),
            Export::ReadOnly => format!("{}{READ_ONLY_SUFFIX}", self.export.name),
        }
    }

    /// The result of the negotiation for the chosen export. Contexts that were chosen for another export do
    /// not count ("NBD_OPT_SET_META_CONTEXT").
    fn terms_for(&self, export: Export) -> Terms {
        let contexts = if self.contexts_of == export { self.terms.contexts } else { Contexts::NONE };
        Terms { contexts, read_only: self.is_read_only(export), ..self.terms }
    }

    fn is_read_only(&self, export: Export) -> bool {
        self.export.read_only || export == Export::ReadOnly
    }

    fn flags(&self, export: Export) -> u16 {
        transmission_flags(self.is_read_only(export), self.terms.style == ReplyStyle::Structured)
    }

    fn push(&mut self, option: u32, kind: ReplyType, text: &str) {
        push_reply(&mut self.reply, option, kind, &[text.as_bytes()]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    /// A client that has sent everything it will send.
    struct Script<'a> {
        says: &'a [u8],
        hears: Vec<u8>,
    }

    impl Read for Script<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.says.read(into)
        }
    }

    impl Write for Script<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.hears.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(says: &[u8]) -> (io::Result<bool>, Vec<u8>) {
        let (outcome, hears) = talk(says, Security::NotOffered);
        (outcome.map(|outcome| matches!(outcome, Outcome::Welcome(..))), hears)
    }

    fn talk(says: &[u8], security: Security) -> (io::Result<Outcome>, Vec<u8>) {
        let export = ExportInfo {
            name: "a".into(),
            description: "b".into(),
            size_bytes: 1 << 30,
            logical_block_bytes: 4096,
            preferred_bytes: 65536,
            read_only: false,
            stripe_bytes: 262_144,
        };
        let mut script = Script { says, hears: Vec::new() };
        let seat = || {
            assert_ne!(security, Security::Required, "a seat before TLS");
            None
        };
        let outcome = greet(&mut script).and_then(|client| match client {
            Some(client) => negotiate(&mut script, client, security, &export, &seat),
            None => Ok(Outcome::Goodbye),
        });
        (outcome, script.hears)
    }

    fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    proptest! {
        #[test]
        fn options_of_any_bytes_are_answered_in_step(
            options in prop::collection::vec((0u32..16, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let mut says = vec![0, 0, 0, 3];
            // EXPORT_NAME and ABORT end the handshake, so they are left out: this test checks that server and
            // client stay in step.
            let options: Vec<_> = options.into_iter().filter(|(option, _)| ![1, 2].contains(option)).collect();
            options.iter().for_each(|(option, data)| says.extend(option_bytes(*option, data)));
            says.extend(option_bytes(option::ABORT, &[]));
            let (outcome, hears) = check(&says);
            prop_assert!(!outcome.unwrap());
            let goodbye = option_reply(option::ABORT);
            prop_assert!(hears.ends_with(&goodbye));
        }

        #[test]
        fn any_bytes_end_the_handshake(mut says in prop::collection::vec(any::<u8>(), 0..200), flags in 0u8..4) {
            if says.len() >= 4 {
                says[..4].copy_from_slice(&[0, 0, 0, flags]);
            }
            let (outcome, _) = check(&says);
            prop_assert!(!outcome.unwrap_or(false));
        }
    }

    fn option_reply(option: u32) -> Vec<u8> {
        let mut reply = Vec::new();
        push_reply(&mut reply, option, ReplyType::Ack, &[]);
        reply
    }

    #[test]
    fn a_long_option_is_dropped_and_a_longer_one_ends_it() {
        let mut says = vec![0, 0, 0, 3];
        says.extend(option_bytes(99, &vec![0; OPTION_BYTES_MAX as usize + 1]));
        says.extend(option_bytes(option::ABORT, &[]));
        assert!(check(&says).1.ends_with(&option_reply(option::ABORT)));
        let mut says = vec![0, 0, 0, 3];
        says.extend(option_bytes(99, &vec![0; OPTION_DRAIN_BYTES_MAX as usize + 1]));
        says.extend(option_bytes(option::ABORT, &[]));
        assert_eq!(check(&says).1.len(), 18, "nothing but the greeting");
    }

    /// The types of the replies to some options, in order, and the outcome.
    fn replies(security: Security, options: &[(u32, &[u8])]) -> (Vec<u32>, Option<Outcome>) {
        let mut says = vec![0, 0, 0, 3];
        options.iter().for_each(|(option, data)| says.extend(option_bytes(*option, data)));
        let (outcome, hears) = talk(&says, security);
        let (mut rest, mut types) = (&hears[18..], Vec::new());
        while !rest.is_empty() {
            let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
            types.push(word(12));
            rest = &rest[20 + word(16) as usize..];
        }
        (types, outcome.ok())
    }

    #[test]
    fn tls_is_started_where_it_is_offered() {
        let (ack, required) = (ReplyType::Ack as u32, ReplyType::TlsRequired as u32);
        let (invalid, unsupported) = (ReplyType::Invalid as u32, ReplyType::Unsupported as u32);
        let go: (u32, &[u8]) = (option::GO, &[0; 6]);
        let start: (u32, &[u8]) = (option::START_TLS, &[]);
        for security in [Security::Offered, Security::Required] {
            let (types, outcome) = replies(security, &[(option::START_TLS, &[0]), start, go]);
            assert_eq!(types, [invalid, ack], "{security:?}: nothing is said between");
            assert!(matches!(outcome, Some(Outcome::Encrypt)), "{security:?}");
        }
        for (security, answer) in [(Security::NotOffered, unsupported), (Security::InUse, invalid)] {
            let (types, outcome) = replies(security, &[start, (option::ABORT, &[])]);
            assert_eq!(types, [answer, ack], "{security:?}");
            assert!(matches!(outcome, Some(Outcome::Goodbye)), "{security:?}");
        }
        // Before TLS, a client that must use it learns of no export.
        for option in
            [option::LIST, option::INFO, option::GO, option::STRUCTURED_REPLY, option::SET_META_CONTEXT, 99]
        {
            let (types, _) = replies(Security::Required, &[(option, &[0; 6]), (option::ABORT, &[])]);
            assert_eq!(types, [required, ack], "option {option}");
        }
        let (types, outcome) = replies(Security::Required, &[(option::EXPORT_NAME, b"a"), go]);
        assert!(types.is_empty() && matches!(outcome, Some(Outcome::Goodbye)), "it has no error replies");
    }
}
