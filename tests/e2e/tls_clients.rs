//! Parts that the tests of TLS share: a server with TLS on a free port, and the stock clients that use it.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Array, Lab, Server, run, succeeded};

/// The options of a server that listens on a free port with the files of this directory, and the port.
pub fn options(directory: &str) -> (Vec<String>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let listen = format!("127.0.0.1:{port}");
    (["--nbd", &listen, "--nbd-tls", directory].map(String::from).to_vec(), port)
}

pub fn serve<'a>(array: &'a Array<'a>, options: &[String]) -> Server<'a> {
    array.serve(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Whether a text appears in the server's log within 2 s.
pub fn log_has(server: &Server<'_>, text: &str) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        server.log().contains(text)
    })
}

/// The export as qemu's tools open it, with the credentials `t`.
pub fn export_of_qemu(port: u16) -> String {
    format!("driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={port},file.tls-creds=t")
}

/// How the stock clients reach a server by TLS.
pub struct Ways {
    /// For a copy into the array, and for one out of it.
    pub uri_in: String,
    pub uri_out: String,
    pub uri_by_unix_socket: String,
    /// The `--object` of qemu's tools, called `t`.
    pub object: String,
    pub port: u16,
}

/// Copies `bytes` in and out by several connections with TLS, writes and reads with qemu, and compares all of
/// it with what an unencrypted client sees. On the unix socket TLS is optional.
pub fn stock_clients_work(lab: &Lab, server: &Server<'_>, ways: &Ways, bytes: usize) {
    let is_by_tls = |uri: &str| -> bool {
        let json = succeeded("nbdinfo", &run("nbdinfo", &["--json", uri]));
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["exports"][0]["export-size"].as_u64(), Some(server.status().size_bytes), "{json}");
        json["TLS"].as_bool().expect("nbdinfo says it")
    };
    let plain = server.uri();
    assert!(is_by_tls(&ways.uri_in) && is_by_tls(&ways.uri_by_unix_socket) && !is_by_tls(&plain));
    let (image, out) = (lab.path("noise"), lab.path("out"));
    std::fs::write(&image, crate::content::pattern(6, 0, bytes)).expect("room");
    let (image, out) = (image.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let args = ["--connections=4", "--requests=32", "--flush", image, &ways.uri_in];
    succeeded("nbdcopy in", &run("nbdcopy", &args));
    let compare = ["compare", "-f", "raw", "-F", "raw", image, &plain];
    succeeded("qemu-img compare", &run("qemu-img", &compare));
    let args = ["--connections=4", "--requests=32", &ways.uri_out, out];
    succeeded("nbdcopy out", &run("nbdcopy", &args));
    succeeded("cmp", &run("cmp", &["-n", &bytes.to_string(), image, out]));
    // qemu, with requests of other sizes.
    let export = export_of_qemu(ways.port);
    let mut args = vec!["--object", &ways.object, "--image-opts", &export];
    let commands = [
        "write -P 9 1M 15M",
        "flush",
        "read -P 9 1M 15M",
        "write -z 2M 1M",
        "read -P 0 2M 1M",
        "aio_read 0 8M",
    ];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    let text = succeeded("qemu-io", &run("qemu-io", &args));
    assert!(!text.contains("failed") && !text.contains("error"), "{text}");
}
