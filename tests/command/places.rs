//! The same model from every place gives the same scores.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::file_server::{Fault, FileServer, UNDATED, WHOLE};
use crate::support::{assert_scores, root};
use crate::tiny_gguf::{shard_name, split_tiny_llama};
use serde_json::{Value, json};

fn model() -> PathBuf {
    root().join("tests/goldens/families/llama/model")
}

/// The command on the family's rows, with a cache of its own.
fn score(place: &str, cache: &Path, environment: &[(&str, &str)]) -> Output {
    // Others may read theirs.
    let rows = cache.join(format!("rows-{:?}.json", std::thread::current().id()));
    std::fs::copy(
        root().join("tests/goldens/families/llama/rows.jsonl"),
        &rows,
    )
    .unwrap();
    let query = format!(
        "SELECT s.* FROM (SELECT preference_scores(prompt, chosen, rejected) AS s, prompt
           FROM '{}' WHERE format = 'raw') ORDER BY prompt",
        rows.display()
    );
    let fields = [
        "prompt_tokens",
        "chosen_tokens",
        "rejected_tokens",
        "truncated",
        "ches",
        "ches_normalized",
        "last_hidden_similarity",
        "normalized_edit_distance",
        "chosen_logprob",
        "rejected_logprob",
    ];
    let list = fields
        .map(|field| format!("s['{field}'] AS {field}"))
        .join(", ");
    Command::new(env!("CARGO_BIN_EXE_ches"))
        .args(["-q", "--format", "nd-json", "--maxrows", "inf"])
        .args(["--set", "ches.prompt_format=raw", "--model", place])
        .args(["-c", &query.replace("s.*", &list)])
        .env("CHES_CACHE_DIR", cache)
        .env("HF_HOME", cache.join("hf"))
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn assert_golden(place: &str, output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {error}");
    let golden = root().join("tests/goldens/families/llama/rows.jsonl");
    let golden = std::fs::read_to_string(golden).unwrap();
    let mut golden: Vec<Value> = golden
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|row: &Value| row["format"] == "raw")
        .collect();
    golden.sort_by_key(|row| row["prompt"].as_str().unwrap().to_owned());
    let out = String::from_utf8_lossy(&output.stdout);
    let found: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), golden.len(), "{place}");
    for (at, (golden, found)) in golden.iter().zip(&found).enumerate() {
        assert_scores(&format!("{place}, row {at}"), golden, |name| {
            found[name].clone()
        });
    }
}

/// The model in three files and an index.
fn sharded(folder: &Path) {
    for entry in std::fs::read_dir(model()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "model.safetensors" {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let bytes = std::fs::read(model().join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut shards = vec![Vec::new(); 3];
    let mut map = serde_json::Map::new();
    for (at, (name, view)) in tensors.iter().enumerate() {
        map.insert(
            name.to_owned(),
            json!(format!("part-{}.safetensors", at % 3)),
        );
        shards[at % 3].push((name.to_owned(), view));
    }
    for (at, shard) in shards.into_iter().enumerate() {
        let file = folder.join(format!("part-{at}.safetensors"));
        safetensors::serialize_to_file(shard, None, &file).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
}

fn s3(server: &FileServer) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT", server.url()),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_ACCESS_KEY_ID", "key".into()),
        ("AWS_SECRET_ACCESS_KEY", "secret".into()),
        ("AWS_REGION", "us-east-1".into()),
    ]
}

fn with<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    let pair = |(name, value): &'a (&'static str, String)| (*name, value.as_str());
    variables.iter().map(pair).collect()
}

#[test]
fn directory_shards_and_gguf() {
    let cache = tempfile::tempdir().unwrap();
    let shards = tempfile::tempdir().unwrap();
    sharded(shards.path());
    for place in [
        model(),
        shards.path().to_owned(),
        root().join("tests/goldens/gguf/llama.gguf"),
    ] {
        let place = place.to_str().unwrap();
        assert_golden(place, &score(place, cache.path(), &[]));
    }
}

#[test]
fn s3_and_http_are_downloaded_once() {
    let server = FileServer::start();
    let shards = tempfile::tempdir().unwrap();
    sharded(shards.path());
    let headers = "ETag: \"1\"\r\n";
    server.serve_folder("/bucket/llama", &model(), headers);
    server.serve_folder("/bucket/models/shards", shards.path(), headers);
    let gguf = std::fs::read(root().join("tests/goldens/gguf/llama.gguf")).unwrap();
    server.serve("/bucket/llama.gguf", gguf, headers);
    let s3 = s3(&server);
    for path in ["llama", "llama/", "models/shards", "llama.gguf"] {
        for scheme in ["s3://bucket", &format!("{}/bucket", server.url())] {
            let cache = tempfile::tempdir().unwrap();
            let place = format!("{scheme}/{path}");
            server.requests();
            assert_golden(&place, &score(&place, cache.path(), &with(&s3)));
            let bodies =
                |requests: &[String]| requests.iter().filter(|r| r.starts_with("GET")).count();
            assert!(bodies(&server.requests()) > 0, "{place}");
            assert_golden(&place, &score(&place, cache.path(), &with(&s3)));
            // An index is read anew to know what belongs to the model.
            let again = bodies(&server.requests());
            assert_eq!(again, usize::from(path.contains("shards")), "{place}");
        }
    }
}

#[test]
fn shards_of_a_gguf_by_any_url() {
    let server = FileServer::start();
    let local = tempfile::tempdir().unwrap();
    for (number, shard) in split_tiny_llama().iter().enumerate() {
        let name = shard_name(number + 1);
        std::fs::write(local.path().join(&name), shard.bytes()).unwrap();
        for folder in ["bucket/whole", "bucket/part"] {
            if folder.ends_with("whole") || number != 1 {
                server.serve(
                    &format!("/{folder}/{name}"),
                    shard.bytes(),
                    "ETag: \"1\"\r\n",
                );
            }
        }
    }
    let s3 = s3(&server);
    let run = |place: &str, cache: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ches"));
        command.args(["-q", "--format", "csv", "--model", place]);
        command.args(["-c", "SELECT ches('a b', ' yes', ' no')"]);
        command.env("CHES_CACHE_DIR", cache).envs(with(&s3));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let cache = tempfile::tempdir().unwrap();
    let at = local.path().join(shard_name(2));
    let (expected, error) = run(at.to_str().unwrap(), cache.path());
    assert_eq!(expected.lines().count(), 2, "{error}");
    for scheme in ["s3://bucket", &format!("{}/bucket", server.url())] {
        let cache = tempfile::tempdir().unwrap();
        for number in [3, 1, 2] {
            server.requests();
            let place = format!("{scheme}/whole/{}", shard_name(number));
            let (scores, error) = run(&place, cache.path());
            assert_eq!(scores, expected, "{place}: {error}");
            let requests = server.requests();
            let bodies = requests.iter().filter(|r| r.starts_with("GET")).count();
            // Whichever names it, it is the same model.
            assert_eq!(bodies, if number == 3 { 3 } else { 0 }, "{place}");
        }
        for number in [1, 2, 3] {
            let place = format!("{scheme}/part/{}", shard_name(number));
            let (_, error) = run(&place, cache.path());
            let missing = format!("bucket/part/{}", shard_name(2));
            let missing = missing.trim_start_matches(match scheme {
                "s3://bucket" => "bucket/",
                _ => "",
            });
            assert!(error.contains(missing), "{place}: {error}");
        }
    }
}

#[test]
fn an_adapter_beside_a_model_is_refused() {
    let server = FileServer::start();
    server.serve_folder("/model", &model(), "ETag: \"1\"\r\n");
    server.serve("/model/adapter_config.json", "{}", "ETag: \"1\"\r\n");
    let cache = tempfile::tempdir().unwrap();
    let output = score(&format!("{}/model", server.url()), cache.path(), &[]);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("adapter_config.json beside config.json"),
        "{error}"
    );
}

#[test]
fn a_model_that_changed_is_another() {
    let server = FileServer::start();
    let cache = tempfile::tempdir().unwrap();
    server.serve_folder("/model", &model(), "ETag: \"1\"\r\n");
    let place = format!("{}/model", server.url());
    assert_golden(&place, &score(&place, cache.path(), &[]));
    let other = root().join("tests/goldens/families/mistral/model");
    server.serve_folder("/model", &other, "ETag: \"2\"\r\n");
    let output = score(&place, cache.path(), &[]);
    assert!(output.status.success());
    assert_ne!(
        output.stdout,
        score(model().to_str().unwrap(), cache.path(), &[]).stdout
    );
}

#[test]
fn what_fails_is_asked_for_again() {
    let server = FileServer::start();
    for (path, headers) in [("/tagged", "ETag: \"1\"\r\n"), ("/plain", "")] {
        server.serve_folder(path, &model(), headers);
        for faults in [
            &[Fault::Status(503), Fault::Status(500)][..],
            &[Fault::Cut(100), Fault::Cut(0)],
            &[Fault::Cut(1000), Fault::Status(503), Fault::Cut(10)],
        ] {
            let cache = tempfile::tempdir().unwrap();
            let place = format!("{}{path}", server.url());
            server.fail(faults);
            assert_golden(&place, &score(&place, cache.path(), &[]));
        }
    }
}

/// A copy of the model with weights above what is asked for at once.
fn padded(folder: &Path) {
    for entry in std::fs::read_dir(model()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let weights = folder.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let more = vec![0u8; 40 << 20];
    let shape = vec![more.len()];
    let more = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, shape, &more).unwrap();
    let all = tensors.iter().chain([("mtp.unused", more)]);
    let all: Vec<_> = all.map(|(name, view)| (name.to_owned(), view)).collect();
    safetensors::serialize_to_file(all, None, &weights).unwrap();
}

#[test]
fn large_files_come_in_pieces_or_whole() {
    let server = FileServer::start();
    let folder = tempfile::tempdir().unwrap();
    padded(folder.path());
    for (path, headers) in [
        ("/pieces", String::new()),
        ("/weak", "ETag: W/\"1\"\r\n".into()),
        ("/whole", WHOLE.to_owned()),
    ] {
        server.serve_folder(path, folder.path(), &headers);
        let cache = tempfile::tempdir().unwrap();
        let place = format!("{}{path}", server.url());
        server.fail(&[Fault::Status(500), Fault::Cut(10), Fault::Cut(100)]);
        server.requests();
        assert_golden(&place, &score(&place, cache.path(), &[]));
        let requests = server.requests();
        let weights = requests
            .iter()
            .filter(|r| *r == &format!("GET {path}/model.safetensors"));
        assert!(weights.count() >= 3, "{place}: {requests:?}");
    }
}

#[test]
fn a_server_that_dates_nothing_is_refused() {
    let server = FileServer::start();
    let cache = tempfile::tempdir().unwrap();
    server.serve_folder("/model", &model(), UNDATED);
    let output = score(&format!("{}/model", server.url()), cache.path(), &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("neither ETag nor Last-Modified"), "{error}");
}

#[test]
fn processes_share_a_download() {
    let server = FileServer::start();
    let folder = tempfile::tempdir().unwrap();
    padded(folder.path());
    server.serve_folder("/model", folder.path(), "");
    let cache = tempfile::tempdir().unwrap();
    let place = format!("{}/model", server.url());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_golden(&place, &score(&place, cache.path(), &[])));
        }
    });
    let requests = server.requests();
    let weights = requests
        .iter()
        .filter(|r| *r == "GET /model/model.safetensors");
    assert_eq!(weights.count(), 3, "three pieces, once: {requests:?}");
}

#[test]
fn what_is_not_there_is_said() {
    let server = FileServer::start();
    let cache = tempfile::tempdir().unwrap();
    server.serve("/empty/config.json", "{}", "");
    server.serve("/escape/config.json", "{}", "");
    server.serve("/escape/tokenizer.json", "{}", "");
    let index = r#"{"weight_map": {"a": "../../x.safetensors"}}"#;
    server.serve("/escape/model.safetensors.index.json", index, "");
    let hub = [("HF_ENDPOINT", server.url())];
    for (place, expected) in [
        (format!("{}/nothing", server.url()), "nothing/config.json"),
        (format!("{}/nothing.gguf", server.url()), "nothing.gguf"),
        (format!("{}/empty", server.url()), "empty/tokenizer.json"),
        (
            format!("{}/escape", server.url()),
            "names '../../x.safetensors'",
        ),
        (
            "ftp://host/model".into(),
            "scheme 'ftp'; accepted: a path, s3://",
        ),
        ("hf://org/none".into(), "hf://org/none is not there"),
        (
            format!("{}/m.gguf?token=secret", server.url()),
            "accepted: a URL without user, password and query",
        ),
        ("hf://org/../x".into(), "accepted: hf://org/name"),
        ("hf://a/b/c".into(), "accepted: hf://org/name"),
        (
            "az://container/model".into(),
            "ches.model: az://container/model",
        ),
    ] {
        let output = score(&place, cache.path(), &with(&hub));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{place}");
        assert!(error.contains(expected), "{place}: {error}");
    }
    let left = std::fs::read_dir(cache.path().join("models"));
    let left = left.map_or(0, |folder| {
        folder.flatten().filter(|e| e.path().is_dir()).count()
    });
    assert_eq!(left, 0, "a model that is not there left a folder");
}

#[test]
fn the_hub() {
    let server = FileServer::start();
    let cache = tempfile::tempdir().unwrap();
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let mut siblings = vec![json!({"rfilename": "README.md"})];
    for entry in std::fs::read_dir(model()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let content = std::fs::read(model().join(&name)).unwrap();
        let headers = format!(
            "ETag: \"{}\"\r\nx-repo-commit: {sha}\r\n",
            name.replace(['.', '_'], "-")
        );
        server.serve(
            &format!("/org/tiny/resolve/{sha}/{name}"),
            content,
            &headers,
        );
        siblings.push(json!({"rfilename": name}));
    }
    let info = json!({"sha": sha, "siblings": siblings}).to_string();
    for revision in ["main", "v1.0"] {
        server.serve(
            &format!("/api/models/org/tiny/revision/{revision}"),
            info.clone(),
            "",
        );
    }
    let hub = [("HF_ENDPOINT", server.url())];
    // What an interrupted download left, and answers that fail.
    let blobs = cache.path().join("hf/hub/models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("model-safetensors.part"), vec![7; 5000]).unwrap();
    server.fail(&[Fault::Status(503), Fault::Status(500)]);
    for place in ["hf://org/tiny", "hf://org/tiny@v1.0"] {
        assert_golden(place, &score(place, cache.path(), &with(&hub)));
    }
    let requests = server.requests();
    let weights = requests.iter().filter(|r| r.ends_with("model.safetensors"));
    assert_eq!(weights.count(), 2, "its size, and it: {requests:?}");
    // What is cached works without the Hub, and by its path.
    let offline = [
        ("HF_HUB_OFFLINE", "1"),
        ("HF_ENDPOINT", "http://127.0.0.1:1"),
    ];
    assert_golden("offline", &score("hf://org/tiny", cache.path(), &offline));
    assert_golden(
        "away",
        &score("hf://org/tiny@v1.0", cache.path(), &offline[1..]),
    );
    let path = cache.path().join("hf/hub/models--org--tiny");
    let path = path.to_str().unwrap();
    assert_golden(path, &score(path, cache.path(), &[]));
}
