//! The command line from outside: usage errors, the help, and commands that cannot do their work, which say
//! so in one line and exit with 1.
//!
//! Method: the built program is run. Oracle: the documented exit codes (0 done, 1 failed, 2 usage), and for
//! the help the texts in `tests/help/`, which a reviewer reads when options change. After an intended change,
//! STRIATE_BLESS=1 rewrites them.
//!
//! No test here needs a working engine, a drive, or root.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `striate` with a run directory of its own, which does not exist yet.
fn striate(run_dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_striate"))
        .args(words)
        .env("STRIATE_RUN_DIR", run_dir)
        .env("COLUMNS", "100")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("STRIATE_LOG")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs `striate`; returns exit code, standard output and standard error.
fn check(words: &[&str]) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = striate(&directory.path().join("run"), words);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn usage_errors_exit_with_2() {
    let cases: &[&[&str]] = &[
        &[],
        &["format"],
        &["--frobnicate"],
        // create
        &["create"],
        &["create", "a", "--level", "5"],
        &["create", "a", "m0", "m1", "m2"],
        &["create", "a", "--level", "1", "m0", "m1", "m2"],
        &["create", "../a", "--level", "5", "m0", "m1", "m2"],
        &["create", "a", "--level", "5", "--chunk", "64KB", "m0", "m1", "m2"],
        &["create", "a", "--level", "5", "--chunk", "8G", "m0", "m1", "m2"],
        &["create", "a", "--level", "5", "--init", "quick", "m0", "m1", "m2"],
        &["create", "a", "--level", "5", "--size", "16384P", "m0", "m1", "m2"],
        // serve and the others
        &["serve"],
        &["serve", "m0", "--reactors", "-1"],
        &["serve", "m0", "--memory", "much"],
        &["serve", "m0", "--log", "loud"],
        &["status", "a", "b"],
        &["status", "--watch=0"],
        &["detail"],
        &["fail", "a"],
        &["fail", "a", "99999999999999999999999"],
        &["stop"],
        &["wait", "a", "--timeout", "soon"],
        &["grow"],
        &["scrub"],
        // bench
        &["bench", "--members", "null:"],
        &["bench", "--members", "null:1T*33"],
        &["bench", "--rw", "sideways"],
        &["bench", "--qd", "0"],
        &["bench", "--cores", "0"],
        &["bench", "--cores", "1000"],
        &["bench", "--secs", "3601"],
        &["serve", "m0", "--reactors", "1000"],
        &["bench", "--secs", "0"],
        &["bench", "--secs", "NaN"],
        &["bench", "--rwmixread", "101"],
        // Options that do not fit together.
        &["bench", "--verify"],
        &["bench", "--degraded", "5"],
        &["bench", "--members", "null:1T*2"],
        &["create", "a", "--level", "6", "m0", "m1", "m2"],
        &["create", "a", "--level", "5", "--chunk", "48K", "m0", "m1", "m2"],
        &["serve", "m0", "--nbd", "tcp:127.0.0.1"],
        &["serve", "m0", "--nbd", "unix:"],
        &["serve", "m0", "--memory", "1K"],
        &["detail", "--export", "m0", "m1"],
        &["demo", "extra"],
    ];
    for words in cases {
        let (code, out, err) = check(words);
        assert_eq!(code, Some(2), "{words:?}: {err}");
        assert!(out.is_empty() && !err.is_empty(), "{words:?}: {out}{err}");
    }
}

#[test]
fn what_cannot_be_done_is_one_line_and_exit_code_1() {
    let cases: &[(&[&str], &str)] = &[
        (&["stop", "a"], "striate: not served: a: "),
        (&["fail", "a", "0"], "striate: not served: a: "),
        (&["replace", "a", "0", "/dev/null"], "striate: not served: a: "),
        (&["wait", "a"], "striate: not served: a: "),
        (&["status", "a"], "striate: not served: a: "),
        (&["detail", "a"], "striate: neither served nor a file: a: "),
        (&["serve", "/nonexistent/m0"], "striate: "),
        (&["grow", "/nonexistent/m0"], "striate: "),
        (&["scrub", "/nonexistent/m0"], "striate: "),
        (&["create", "a", "-l", "5", "/nonexistent/m0", "/nonexistent/m1", "/nonexistent/m2"], "striate: "),
        (&["demo", "--dir", "/nonexistent"], "striate: cannot make a directory in /nonexistent: "),
        (&["demo", "--source", "/nonexistent"], "striate: cannot archive /nonexistent: "),
    ];
    for (words, beginning) in cases {
        let (code, out, err) = check(words);
        assert_eq!(code, Some(1), "{words:?}: {err}");
        assert!(out.is_empty(), "{words:?}: {out}");
        assert!(err.starts_with(beginning) && err.lines().count() == 1, "{words:?}: {err}");
    }
}

/// An environment variable does not count as a typed option in messages: the usage in an error shows no
/// option as required.
#[test]
fn the_usage_of_an_error_is_that_of_the_help() {
    let directory = tempfile::tempdir().unwrap();
    for words in [&["fail", "a"][..], &["status", "--watch", "--check"], &["serve", "--log", "loud", "m0"]] {
        let output = striate(&directory.path().join("run"), words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(!said.contains("--run-dir"), "{words:?}: {said}");
    }
}

/// On a narrow terminal no word is broken, neither in the help nor in a table.
#[test]
fn no_word_is_broken_at_50_columns() {
    let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    for verb in ["create", "serve", "status", "replace", "stop"] {
        let helps = ["100", "50"].map(|columns| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_striate"));
            let output = command.args([verb, "--help"]).env("COLUMNS", columns).output().unwrap();
            words(&String::from_utf8(output.stdout).unwrap())
        });
        assert_eq!(helps[0], helps[1], "{verb}");
    }
}

/// `striate status --watch=3600 | head -1` ends as soon as `head` ends.
#[test]
fn a_watch_ends_with_its_reader() {
    use std::io::{BufRead, BufReader};
    use std::time::{Duration, Instant};
    let directory = tempfile::tempdir().unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_striate"))
        .args(["status", "--watch=3600"])
        .env("STRIATE_RUN_DIR", directory.path().join("run"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "no array is served\n");
    let began = Instant::now();
    let ended = loop {
        if let Some(status) = watch.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(20) {
            watch.kill().unwrap();
            panic!("it goes on without a reader");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(ended.success(), "{ended}");
}

#[test]
fn no_array_is_no_error() {
    let (code, out, err) = check(&["status"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "no array is served\n", ""));
    let (code, out, err) = check(&["status", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.ends_with("\"arrays\": []\n}\n"), "{out}");
}

#[test]
fn a_dead_server_is_told_of_and_cleared_away() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let dead = |name: &str| drop(std::os::unix::net::UnixListener::bind(file(name)).unwrap());
    ["gone.sock", "gone.nbd", "stray.sock"].into_iter().for_each(dead);
    std::fs::write(file("gone.lock"), "").unwrap();
    std::fs::write(file("other.nbd"), "").unwrap();
    for words in [&["status"][..], &["status", "gone"], &["stop", "gone"]] {
        let output = striate(directory.path(), words);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("striate: server gone: gone: "), "{said}");
        let advice = if words[0] == "stop" { "stop --force gone`" } else { "stop gone`" };
        let run_dir = directory.path().display();
        assert!(said.contains(&format!("`striate --run-dir {run_dir} {advice}")), "{said}");
    }
    // A socket that was not made by a server of an array belongs to another program.
    let stray = striate(directory.path(), &["stop", "--force", "stray"]);
    assert_eq!(stray.status.code(), Some(1));
    assert!(file("stray.sock").exists());
    let cleared = striate(directory.path(), &["stop", "--force", "gone"]);
    assert_eq!(String::from_utf8_lossy(&cleared.stderr), "");
    assert!(String::from_utf8_lossy(&cleared.stdout).starts_with("cleared: gone: "));
    assert!(!file("gone.sock").exists() && !file("gone.nbd").exists() && file("other.nbd").exists());
    let after = striate(directory.path(), &["status"]);
    assert_eq!(String::from_utf8_lossy(&after.stdout), "no array is served\n");
    assert_eq!(striate(directory.path(), &["stop", "--force", "gone"]).status.code(), Some(1));
}

#[test]
fn a_run_directory_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let output = striate(directory.path(), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("striate: unsafe run directory: "));
}

#[test]
fn help_says_what_it_said() {
    let verbs = [
        "create", "serve", "status", "detail", "lost", "fail", "replace", "stop", "wait", "grow", "scrub",
        "bench", "demo",
    ];
    let mut changed = Vec::new();
    for verb in [""].iter().chain(&verbs) {
        let words: Vec<&str> = [*verb, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let (code, out, err) = check(&words);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{verb}");
        let file = format!("tests/help/{}.txt", if verb.is_empty() { "striate" } else { verb });
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
        if std::env::var_os("STRIATE_BLESS").is_some() {
            std::fs::write(path, out).unwrap();
        } else if std::fs::read_to_string(path).unwrap_or_default() != out {
            changed.push(file);
        }
    }
    assert!(changed.is_empty(), "the help differs from {changed:?}; STRIATE_BLESS=1 if that is meant");
}
