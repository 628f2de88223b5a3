//! `--json` of every verb, in success and in failure.
//!
//! Method: the built program runs over sparse files, as an unprivileged user. Oracle: standard output is one
//! JSON document that the schema in docs/schema accepts (the validator is json/schema.rs); the exit code is
//! that of the same command without `--json`; and an error is also on standard error, in the same words.
//!
//! Not covered: `bench --ublk-null`, which needs root.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

#[path = "json/schema.rs"]
mod schema;

const MEMBERS: usize = 4;

/// A temporary directory with a run directory and files.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        Stage { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program with these words, where `@name` is a file of the stage.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_striate"));
        for word in words {
            match word.split_once('@') {
                Some((before, name)) => {
                    command.arg(format!("{before}{}", self.file(name).display()));
                }
                None => {
                    command.arg(word);
                }
            }
        }
        command
            .env("STRIATE_RUN_DIR", self.file("run"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("STRIATE_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command and returns the single document that it prints, checked against its schema; checks the
    /// exit code too.
    #[track_caller]
    fn document(&self, words: &[&str], name: &str, code: i32) -> Value {
        let output = self.run(words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {out}{err}");
        document(&out, name)
    }

    /// The advice of a single command, as it can be typed.
    fn advice(&self, words: &str) -> Value {
        serde_json::json!([format!("striate --run-dir {} {words}", self.file("run").display())])
    }

    fn members(&self) -> Vec<String> {
        (0..MEMBERS).map(|slot| format!("@m{slot}")).collect()
    }

    /// A command followed by the members.
    fn with_members<'a>(&self, words: &[&'a str], members: &'a [String]) -> Vec<&'a str> {
        words.iter().copied().chain(members.iter().map(String::as_str)).collect()
    }
}

/// Parses a document and checks it against its schema.
#[track_caller]
fn document(text: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schema/{name}.json"));
    let schema: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    schema::check(&schema, &value).unwrap_or_else(|why| panic!("{name}: {why}\n{text}"));
    assert_eq!(value["schema"], schema["x-striate-schema"], "{text}");
    value
}

/// Failures of every verb, as words without `--json`. They need neither a server nor root.
const FAILURES: &[(&[&str], i32, &str)] = &[
    // The operation fails.
    (&["create", "a", "-l", "5", "@none/m0", "@none/m1", "@none/m2"], 1, "failed"),
    (&["serve", "@none/m0"], 1, "failed"),
    (&["status", "a"], 1, "failed"),
    (&["detail", "a"], 1, "failed"),
    (&["lost", "a"], 1, "failed"),
    (&["fail", "a", "0"], 1, "failed"),
    (&["replace", "a", "0", "/dev/null"], 1, "failed"),
    (&["stop", "a"], 1, "failed"),
    (&["wait", "a"], 1, "failed"),
    (&["grow", "@none/m0"], 1, "failed"),
    (&["scrub", "@none/m0"], 1, "failed"),
    (&["bench", "--members", "null:1K*5"], 1, "failed"),
    (&["demo", "--dir", "@none"], 1, "failed"),
    // The command line is invalid.
    (&["create", "a"], 2, "usage"),
    (&["serve"], 2, "usage"),
    (&["status", "--check"], 2, "usage"),
    (&["status", "--watch"], 2, "usage"),
    (&["detail"], 2, "usage"),
    (&["detail", "--export", "@m0"], 2, "usage"),
    (&["lost"], 2, "usage"),
    (&["fail", "a", "99999999999999999999999"], 2, "usage"),
    (&["replace", "a", "0"], 2, "usage"),
    (&["stop", "../a"], 2, "usage"),
    (&["wait", "a", "--timeout", "soon"], 2, "usage"),
    (&["grow"], 2, "usage"),
    (&["scrub"], 2, "usage"),
    (&["bench", "--qd", "0"], 2, "usage"),
    (&["bench", "--degraded", "5"], 2, "usage"),
    (&["demo", "extra"], 2, "usage"),
    (&["format"], 2, "usage"),
];

#[test]
fn errors_of_every_verb_are_documents() {
    let stage = Stage::new();
    for (words, code, kind) in FAILURES {
        let words = [*words, &["--json"]].concat();
        let output = stage.run(&words);
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {err}");
        let error = document(&out, "error")["error"].clone();
        assert_eq!(error["kind"], *kind, "{words:?}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains('\n'), "{words:?}: {message}");
        match *kind {
            "failed" => assert!(err.ends_with(&format!("striate: {message}\n")), "{words:?}: {err}{message}"),
            // The message joins several lines of clap.
            _ => {
                message.split(": ").for_each(|part| assert!(err.contains(part), "{words:?}: {err}{message}"))
            }
        }
    }
    // Advice is also given as commands, as they can be typed.
    let error = stage.document(&["detail", "a", "--json"], "error", 1);
    assert_eq!(error["error"]["commands"], stage.advice("status"), "{error}");
}

#[test]
fn the_table_of_failures_has_every_verb() {
    let help = Stage::new().run(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let verbs = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs: BTreeSet<&str> = verbs
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() >= 13, "{verbs:?}");
    for kind in ["failed", "usage"] {
        let tested: BTreeSet<&str> =
            FAILURES.iter().filter(|case| case.2 == kind).map(|case| case.0[0]).collect();
        let missing: Vec<_> = verbs.difference(&tested).collect();
        assert!(missing.is_empty(), "{kind}: {missing:?}");
    }
}

#[test]
fn help_and_what_follows_two_dashes_are_not_json() {
    let stage = Stage::new();
    let help = stage.run(&["status", "--json", "--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"Show running arrays"));
    let usage = stage.run(&["fail", "--", "--json"]);
    assert_eq!((usage.status.code(), usage.stdout.len()), (Some(2), 0));
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_life_of_an_array_in_documents() {
    let stage = Stage::new();
    let members = stage.members();
    let create = ["create", "--json", "a", "-l", "5", "--size", "16M", "--init", "lazy"];
    let created = stage.document(&stage.with_members(&create, &members), "create", 0);
    assert_eq!((&created["level"], &created["members"]), (&5.into(), &MEMBERS.into()));
    assert_eq!(stage.document(&["status", "--json"], "status", 0)["arrays"], serde_json::json!([]));
    let examined = stage.document(&["detail", "--json", "@m0", "@m1"], "members", 0);
    assert_eq!(examined["members"][1]["superblock"]["slot"], 1);
    stage.document(&stage.with_members(&["scrub", "--json"], &members), "scrub", 0);
    let grown = stage.document(&stage.with_members(&["grow", "--json"], &members), "grow", 0);
    assert_eq!(grown["from_bytes"], grown["to_bytes"]);

    let socket = format!("unix:{}", stage.file("nbd").display());
    let serve = ["serve", "--json", "--reactors", "1", "--memory", "32M", "--nbd", &socket];
    let mut child = stage
        .command(&stage.with_members(&serve, &members))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut server = Server(child);
    let mut ready = String::new();
    lines.read_line(&mut ready).unwrap();
    let ready = document(&ready, "serve");
    assert_eq!((&ready["event"], &ready["exports"][0]), (&"ready".into(), &socket.clone().into()));

    let status = stage.document(&["status", "--json"], "status", 0)["arrays"][0].clone();
    assert_eq!((&status["server"]["pid"], &status["health"]), (&ready["pid"], &"optimal".into()));
    assert!(status["server"]["started_s"].as_u64() > Some(0) && status["server"]["version"].is_string());
    let io = &status["members"][0]["io"];
    assert!(status["members"][0]["serial"].is_null(), "a file has none");
    assert!(io["reads"]["count"].is_u64() && io["writes"]["errors"] == 0, "{io}");
    let array = stage.document(&["detail", "--json", "a"], "array", 0);
    assert_eq!(array["uuid"], created["uuid"]);
    assert_eq!(stage.document(&["lost", "--json", "a"], "lost", 0)["pieces"], serde_json::json!([]));

    let failed = stage.document(&["fail", "--json", "a", "1"], "fail", 0);
    assert_eq!((&failed["name"], &failed["member"]), (&"a".into(), &1.into()));
    stage.document(&["fail", "--json", "a", "2"], "error", 1);
    stage.document(&["fail", "--json", "a", "9"], "error", 1);
    std::fs::File::create(stage.file("spare")).unwrap().set_len(16 << 20).unwrap();
    let replaced = stage.document(&["replace", "--json", "a", "1", "@spare"], "replace", 0);
    assert_eq!(replaced["path"], stage.file("spare").display().to_string());
    let waited = stage.document(&["wait", "--json", "a"], "wait", 0);
    assert_eq!((&waited["ended_well"], &waited["array"]["health"]), (&true.into(), &"optimal".into()));
    let rebuilt = &waited["array"]["members"][1]["io"];
    assert!(rebuilt["writes"]["latency_ns"]["max"].is_u64(), "superblocks at least: {rebuilt}");

    let stopped = stage.document(&["stop", "--json", "a"], "stop", 0);
    assert_eq!((&stopped["outcome"], &stopped["warnings"]), (&"stopped".into(), &serde_json::json!([])));
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
}

/// A server was killed: its entry in the status, and the answer of `stop --force`.
#[test]
fn a_dead_server_is_an_object() {
    let stage = Stage::new();
    std::fs::create_dir(stage.file("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(stage.file("run/gone.sock")).unwrap());
    std::fs::write(stage.file("run/gone.lock"), "").unwrap();
    let status = stage.document(&["status", "--json"], "status", 1);
    assert_eq!(status["arrays"][0]["health"], "server_gone", "{status}");
    let refused = stage.document(&["stop", "--json", "gone"], "error", 1);
    assert_eq!(refused["error"]["commands"], stage.advice("stop --force gone"), "{refused}");
    let cleared = stage.document(&["stop", "--json", "--force", "gone"], "stop", 0);
    assert_eq!(cleared["outcome"], "cleared");
}

#[test]
fn a_bench_is_a_document() {
    let stage = Stage::new();
    let words = ["bench", "--json", "--members", "null:1G*2,mem:64M", "--secs", "0.05", "--rw", "randread"];
    let report = stage.document(&words, "bench", 0);
    assert!(report["iops"].as_f64() > Some(0.0) && report["errors"] == 0, "{report}");
}
