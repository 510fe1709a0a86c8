//! The client commands: flags reach the request, files are written where requested, `--json` is for scripts, and exit
//! codes are meaningful.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use journeys::client::text;
use journeys::model::{single_file, tensors, tiny_folder};
use journeys::picture::{discs, md5, sha256, texts};
use journeys::process::{Signal, binary};
use journeys::stack::{Pace, Stack, free_port};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

#[tokio::test]
async fn from_a_folder_of_photos_to_a_picture_without_a_line_of_code() {
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "");
    let folder = stack.folder().join("photos");
    std::fs::create_dir(&folder).unwrap();
    for photo in discs(3) {
        std::fs::write(folder.join(&photo.name), &photo.bytes).unwrap();
        std::fs::write(folder.join(photo.name.replace(".png", ".txt")), &photo.caption).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output = stack.cli(arguments);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
        out
    };

    // A checkpoint from a folder.
    let imported = stack.cli_json(&["models", "import", tiny_folder().to_str().unwrap(), "--name", "copy"]);
    assert_eq!(imported["kind"], "checkpoint", "{imported:#}");
    let listed = stack.cli_json(&["models", "list"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|model| text(&model["name"])).collect();
    assert!(names.contains(&"copy".to_owned()) && names.contains(&"tiny".to_owned()), "{names:?}");
    assert!(run(&["models", "list"]).contains("copy"));
    assert_eq!(
        stack.cli_json(&["models", "show", "copy"])["sha256"],
        stack.cli_json(&["models", "show", "tiny"])["sha256"],
        "same files, same hash"
    );

    // A LoRA from a folder of photos, with every flag.
    let file = stack.folder().join("style.safetensors");
    let trained = stack.cli_json(&[
        "train",
        folder.to_str().unwrap(),
        "--name",
        "style",
        "--model",
        "copy",
        "--trigger-word",
        "discly",
        "--steps",
        "3",
        "--rank",
        "2",
        "--alpha",
        "4",
        "--learning-rate",
        "0.01",
        "--batch-size",
        "1",
        "--resolution",
        "32",
        "--seed",
        "4",
        "--output",
        file.to_str().unwrap(),
    ]);
    for (field, value) in [("name", "style"), ("trigger_word", "discly"), ("status", "succeeded")] {
        assert_eq!(trained[field], value, "{trained:#}");
    }
    for (field, value) in [
        ("steps", 3.0),
        ("rank", 2.0),
        ("alpha", 4.0),
        ("learning_rate", 0.01),
        ("batch_size", 1.0),
        ("resolution", 32.0),
        ("seed", 4.0),
    ] {
        assert_eq!(trained[field].as_f64(), Some(value), "{field}: {trained:#}");
    }
    let adapter = std::fs::read(&file).unwrap();
    assert_eq!(
        text(&stack.cli_json(&["models", "show", "style"])["sha256"]),
        sha256(&adapter),
        "the file on disk is the model"
    );
    assert!(!tensors(&adapter).by_name.is_empty());

    let training = text(&trained["id"]);
    assert!(run(&["trainings", "list"]).contains(&training));
    assert!(run(&["trainings", "show", &training]).contains("succeeded"));
    assert!(run(&["trainings", "cancel", &training]).contains("succeeded"), "what has ended stays as it ended");

    // The same file is imported again as another LoRA, under names that do not say what it is.
    for (name, model) in [("style.bin", "style2"), ("style", "style3")] {
        let renamed = stack.folder().join(name);
        std::fs::copy(&file, &renamed).unwrap();
        assert_eq!(stack.cli_json(&["models", "import", renamed.to_str().unwrap(), "--name", model])["kind"], "lora");
    }

    let nested = stack.folder().join("nested");
    std::fs::create_dir_all(nested.join("sub")).unwrap();
    std::fs::copy(&file, nested.join("sub/style.safetensors")).unwrap();
    let imported = stack.cli(&["models", "import", nested.to_str().unwrap(), "--name", "style4"]);
    let said = String::from_utf8_lossy(&imported.stderr);
    assert!(imported.status.success() && said.contains("sub/style.safetensors"), "which file was taken: {said}");

    // Pictures: to a file, to a folder, and reported as JSON.
    let owl = stack.folder().join("owl.png");
    let made = stack.cli_json(&[
        "generate",
        "an owl",
        "--model",
        "copy",
        "--lora",
        "style:0.5",
        "--lora",
        "style2",
        "--negative-prompt",
        "blurry",
        "--width",
        "48",
        "--height",
        "32",
        "--steps",
        "2",
        "--guidance",
        "2.5",
        "--seed",
        "21",
        "--num-images",
        "1",
        "--output",
        owl.to_str().unwrap(),
    ]);
    for (field, value) in [
        ("width", 48.0),
        ("height", 32.0),
        ("num_inference_steps", 2.0),
        ("guidance_scale", 2.5),
        ("seed", 21.0),
        ("num_images", 1.0),
    ] {
        assert_eq!(made[field].as_f64(), Some(value), "{field}: {made:#}");
    }
    assert_eq!(made["loras"][0]["scale"], 0.5);
    assert_eq!(made["loras"][1]["model"]["name"], "style2");
    assert_eq!(made["negative_prompt"], "blurry");
    let bytes = std::fs::read(&owl).unwrap();
    assert_eq!(text(&made["artifacts"][0]["image_hash"]), md5(&bytes), "the file on disk is the artifact");
    assert!(texts(&bytes)["pyrograph"].contains("style"), "the LoRAs are in the file");

    for (name, media_type, magic) in
        [("owl.jpg", "image/jpeg", &b"\xff\xd8\xff"[..]), ("owl.webp", "image/webp", b"RIFF")]
    {
        let file = stack.folder().join(name);
        let size = ["--width", "32", "--height", "32", "--steps", "1", "--output", file.to_str().unwrap()];
        let made = stack.cli_json(&[&["generate", "an owl", "--model", "copy"][..], &size].concat());
        assert_eq!(made["artifacts"][0]["media_type"], media_type);
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(text(&made["artifacts"][0]["image_hash"]), md5(&bytes), "the file on disk is the artifact");
        assert!(bytes.starts_with(magic));
    }

    let two = stack.folder().join("two");
    std::fs::create_dir(&two).unwrap();
    run(&[
        "generate",
        "an owl",
        "--model",
        "copy",
        "--steps",
        "1",
        "--width",
        "32",
        "--height",
        "32",
        "--num-images",
        "2",
        "--output",
        two.to_str().unwrap(),
    ]);
    assert_eq!(std::fs::read_dir(&two).unwrap().count(), 2);

    // Datasets step by step.
    let dataset = text(&stack.cli_json(&["datasets", "create", "by hand"])["id"]);
    run(&["datasets", "add", &dataset, folder.to_str().unwrap()]);
    assert_eq!(stack.cli_json(&["datasets", "show", &dataset])["examples"].as_array().unwrap().len(), 3);
    assert!(run(&["datasets", "list"]).contains("by hand"));
    run(&["datasets", "remove", &dataset]);
    run(&["models", "remove", "style2"]);
    let gone = stack.cli(&["models", "show", "style2"]);
    assert_eq!(gone.status.code(), Some(4), "refused by the server");
    stack.ledger.audit().await;
}

#[tokio::test]
async fn exit_codes_tell_what_went_wrong() {
    let stack = Stack::start(Pace::Promised).await;
    let code = |arguments: &[&str]| stack.cli(arguments).status.code();
    assert_eq!(code(&["generate"]), Some(2), "the prompt is missing");
    assert_eq!(code(&["generate", "an owl", "--no-such-flag"]), Some(2));
    assert_eq!(
        code(&["models", "list", "--server", &format!("http://127.0.0.1:{}", free_port())]),
        Some(3),
        "nobody listens"
    );

    let refused = stack.cli(&["generate", "an owl", "--model", "tiny", "--width", "33"]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("width"), "the sentence names the field");

    // A result that cannot be written is a failure; an empty variable counts as unset.
    let mut listing = Command::new(binary());
    listing.args(["models", "list", "--server", stack.client.base()]);
    listing.stdout(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(listing.status().unwrap().code(), Some(1));
    let mut migrating = Command::new(binary());
    migrating.env_clear().env("PYROGRAPH_DATA_DIR", "").current_dir(stack.folder()).arg("migrate");
    let told = migrating.output().unwrap().stderr;
    assert!(String::from_utf8_lossy(&told).contains(".pyrograph/services.json"), "{}", String::from_utf8_lossy(&told));
    let nobody = format!("postgres://127.0.0.1:{}/x", free_port());
    let told = Command::new(binary()).env_clear().env("DATABASE_URL", &nobody).arg("migrate").output().unwrap();
    let told = (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned());
    assert!(told.0 == Some(3) && told.1.matches("does not answer").count() >= 2, "{told:?}");

    let nothing = stack.folder().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    assert!(code(&["train", nothing.to_str().unwrap(), "--name", "x"]).is_some_and(|code| code != 0), "no pictures");

    for arguments in
        [&["--help"][..], &["generate", "--help"], &["train", "--help"], &["up", "--help"], &["worker", "--help"]]
    {
        let output = stack.cli(arguments);
        assert!(output.status.success() && output.stdout.len() > 300, "{arguments:?} is worth reading");
    }
}

/// An option that a variable sets is not one that has to be given.
#[tokio::test]
async fn the_usage_of_an_error_does_not_depend_on_variables() {
    let told = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.env_clear().envs(variables.iter().copied()).args(arguments);
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        told
    };
    let set = [
        ("PYROGRAPH_SERVER", "http://127.0.0.1:1"),
        ("PYROGRAPH_PROJECT", "shop"),
        ("PYROGRAPH_DATA_DIR", "/nowhere"),
        ("PYROGRAPH_PROXIES", "10.0.0.1"),
    ];
    for arguments in [
        &["generate"][..],
        &["generate", "an owl", "--no-such-flag"],
        &["generate", "an owl", "--mask", "x"],
        &["keys", "create"],
        &["up", "here"],
        &["doctor", "--no-such-flag"],
    ] {
        let shown = told(&set, arguments);
        assert!(shown.contains("Usage: ") && shown == told(&[], arguments), "{arguments:?}: {shown}");
    }
    // An error in the variable itself.
    let shown = told(&[("PYROGRAPH_SERVER", "ftp://a")], &["models", "list"]);
    assert!(shown.contains("ftp://a"), "{shown}");
    let help = Command::new(binary()).env_clear().envs(set).args(["models", "list", "--help"]).output().unwrap();
    assert!(String::from_utf8(help.stdout).unwrap().contains("PYROGRAPH_SERVER=http://127.0.0.1:1"));
}

/// Of a file that is sent, only the bytes matter.
#[tokio::test]
async fn files_whose_names_are_no_text_are_sent() {
    let stack = Stack::start(Pace::Promised).await;
    let odd = |folder: &Path, name: &[u8]| folder.join(OsStr::from_bytes(name));
    let [photo, model, folder, missing] =
        [&b"\xff.png"[..], b"\xfe.safetensors", b"f\xff", b"no\xff"].map(|name| odd(&stack.folder(), name));
    std::fs::write(&photo, &discs(1)[0].bytes).unwrap();
    std::fs::write(&model, single_file()).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&model, odd(&folder, b"m\xff.safetensors")).unwrap();
    let run = |arguments: &[&OsStr]| {
        let output = stack.cli(arguments);
        let shown = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code(), shown)
    };
    let import = |source: &Path, name: &str| {
        run(&[OsStr::new("models"), OsStr::new("import"), source.as_os_str(), OsStr::new("--name"), OsStr::new(name)])
    };
    for (source, name) in [(&model, "file"), (&folder, "folder")] {
        let (code, shown) = import(source, name);
        assert_eq!(code, Some(0), "{name}: {shown}");
    }
    let (code, shown) = import(&missing, "missing");
    assert!(code == Some(2) && shown.contains("there is no file or folder") && shown.contains("no\u{fffd}"), "{shown}");

    let _worker = stack.worker("worker", "");
    let generate = |image: &Path, mask: &Path| {
        let words = ["generate", "an owl", "--model=tiny", "--width=32", "--height=32", "--steps=2"].map(OsStr::new);
        let (image, mask) = ([OsStr::new("--image"), image.as_os_str()], [OsStr::new("--mask"), mask.as_os_str()]);
        run(&[&words[..], &image, &mask].concat())
    };
    let (code, shown) = generate(&photo, &photo);
    assert_eq!(code, Some(0), "{shown}");
    let (code, shown) = generate(&photo, &missing);
    assert!(code == Some(2) && shown.contains("there is no file") && shown.contains("no\u{fffd}"), "{shown}");
}

/// Errors that the command line can find by itself, or with a cheap request, are reported before any upload or
/// overwrite.
#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_sent() {
    let stack = Stack::start(Pace::Promised).await;
    let photos = stack.folder().join("photos");
    std::fs::create_dir(&photos).unwrap();
    let caption = photos.join("owl.txt");
    std::fs::write(&caption, "an owl").unwrap();
    for photo in discs(1) {
        std::fs::write(photos.join(&photo.name), &photo.bytes).unwrap();
    }
    let [preview, pickle] = ["old.jpg", "pickle.safetensors"].map(|name| stack.folder().join(name));
    std::fs::write(&preview, "older").unwrap();
    std::fs::write(&pickle, b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x08builtins").unwrap();
    let over_the_api = stack
        .client
        .add_model("x", &[("pickle.safetensors".to_owned(), std::fs::read(&pickle).unwrap())], None)
        .await
        .expect(415);
    let (preview, pickle, is_pickle) =
        (preview.to_str().unwrap(), pickle.to_str().unwrap(), text(&over_the_api["detail"]));
    let tiny = tiny_folder();
    let (photos, written, tiny) = (photos.to_str().unwrap(), caption.to_str().unwrap(), tiny.to_str().unwrap());
    let [pipe, large] = ["pi\npe.png", "large.png"].map(|name| stack.folder().join(name));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    File::create(&large).unwrap().set_len(3 << 30).unwrap();
    let (pipe, large, below) = (pipe.to_str().unwrap(), large.to_str().unwrap(), format!("{written}/more/"));
    for (arguments, code, word) in [
        (&["generate", "an owl", "--output", written][..], 2, written),
        (&["generate", "an owl", "--output", &below], 2, "owl.txt is a file, not a folder"),
        (&["generate", "an owl", "--output", "/proc/pictures/"], 1, "could not write /proc/pictures"),
        (&["generate", "an owl", "--image", pipe], 2, r"pi\npe.png is not a file"),
        (&["generate", "--from", pipe], 2, r"pi\npe.png is not a file"),
        (&["picture-info", pipe], 2, r"pi\npe.png is not a file"),
        (&["picture-info", large], 4, "at most 26214400 (25 MiB) are taken"),
        (&["generate", "an owl", "--image", large], 4, "at most 26214400 (25 MiB) are taken"),
        (&["generate", "an owl", "--lora", "other/tiny.safetensors"], 2, "pyrograph models import"),
        (&["generate", "an owl", "--lora", "./nosuch"], 2, "'./nosuch' is a path"),
        (&["models", "import", "/dev/null", "--name", "x"], 2, "/dev/null is neither a file nor a folder"),
        (&["models", "import", pipe, "--name", "x"], 2, "is neither a file nor a folder"),
        (&["generate", "an owl", "--preview", written], 2, written),
        (&["generate", "an owl", "--preview", preview], 2, "--overwrite"),
        (&["generate", "an owl", "--image", photos], 2, photos),
        (&["generate", "an owl", "--guidance", "nan"], 2, "finite"),
        (&["generate", "an owl", "--guidance", "-1"], 4, "guidance_scale"),
        (&["generate", "an owl", "--seed", "abc"], 2, "it is not a whole number"),
        (&["train", photos, "--name", "x", "--steps", "1.5"], 2, "it is not a whole number"),
        (&["generations", "list", "--limit", "many"], 2, "it is not a whole number"),
        (&["models", "export", "style", "--format", "foo"], 2, "[possible values: kohya, peft, comfy]"),
        (&["models", "export", "style", "--format", "peft", "--dtype", "f8"], 2, "[possible values: f32, f16, bf16]"),
        (&["models", "import", "no.safetensors", "--name", "x"], 2, "no.safetensors"),
        (&["models", "import", pickle, "--name", "x"], 4, &is_pickle),
        (&["models", "import", tiny, "--name", "tiny"], 4, "tiny already"),
        (&["models", "import", tiny, "--name", "No Name"], 4, "name"),
        (&["models", "import", tiny, "--name", "x", "--kind", "sheep"], 2, "vae_approx"),
        (&["models", "import", tiny, "--name", "x", "--base", "nobody"], 4, "nobody"),
        (&["train", photos, "--name", "tiny"], 4, "tiny already"),
        (&["train", photos, "--name", "x", "--model", "nobody"], 4, "nobody"),
        (&["train", photos, "--name", "x", "--model", "tiny", "--output", photos], 2, photos),
    ] {
        let output = stack.cli(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(word) && !told.contains("uploading"), "{arguments:?}: {told}");
    }
    assert_eq!(std::fs::read(&caption).unwrap(), b"an owl");
    for collection in ["/v1/datasets", "/v1/inputs", "/v1/generations"] {
        let items = stack.client.get(collection).await.expect(200)["items"].clone();
        assert_eq!(items.as_array().map(Vec::len), Some(0), "{collection}: {items:#}");
    }
}

/// Names and prompts are other people's, and a terminal executes the control characters in them.
#[tokio::test]
async fn no_prompt_controls_the_terminal() {
    let stack = Stack::start(Pace::Promised).await;
    let prompt = "an\u{1b}]0;owned\u{7} owl\nin two lines \u{9b}2J";
    let request = json!({"prompt": prompt, "model": "tiny"});
    let id = text(&stack.client.generate(&request).await["id"]);
    let missing = "/no\u{1b}[2Jsuch.safetensors";
    for arguments in [
        &["generations", "list"][..],
        &["generations", "show", &id],
        &["models", "show", "no\u{1b}[2Jsuch"],
        &["models", "import", missing, "--name", "x"],
    ] {
        let output = stack.cli(arguments);
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let raw = shown.chars().find(|c| c.is_control() && *c != '\n');
        assert!(raw.is_none() && shown.contains(r"\u{1b}"), "{arguments:?}: {shown:?}");
    }
    let shown = String::from_utf8(stack.cli(&["generations", "show", &id]).stdout).unwrap();
    assert!(shown.contains(r"an\u{1b}]0;owned\u{7} owl\nin two lines \u{9b}2J"), "{shown}");
    assert_eq!(stack.cli_json(&["generations", "show", &id])["prompt"], prompt);
}

/// The pictures that it uploaded are of use to another training.
#[tokio::test]
async fn an_interrupted_training_says_what_stays() {
    let stack = Stack::start(Pace::Promised).await;
    let photos = stack.folder().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for photo in discs(2) {
        std::fs::write(photos.join(&photo.name), &photo.bytes).unwrap();
    }
    let folder = photos.to_str().unwrap();
    let mut training = stack.cli_process("training", &["train", folder, "--name", "style", "--model", "tiny"]);
    let log = || training.log();
    until(seconds(60), "it waits", || async { log().contains("waiting for a worker").then_some(()) }).await;
    assert_eq!(training.end(Signal::INT, seconds(60)).code(), Some(5));
    let log = training.log();
    let dataset = text(&stack.cli_json(&["datasets", "list"])[0]["id"]);
    assert!(log.contains(&format!("pyrograph datasets remove {dataset}")) && log.contains("canceled"), "{log}");
    assert_eq!(stack.cli_json(&["trainings", "list"])[0]["status"], "canceled");
    assert_eq!(stack.cli_json(&["datasets", "show", &dataset])["examples"].as_array().unwrap().len(), 2);
    assert!(stack.cli(&["datasets", "remove", &dataset]).status.success());
    stack.ledger.audit().await;
}

/// Ctrl-C during an upload: the command says what stays on the server.
#[tokio::test]
async fn an_interrupted_upload_says_what_stays() {
    let mut stack = Stack::start(Pace::Promised).await;
    let photos = stack.folder().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for photo in discs(3) {
        std::fs::write(photos.join(&photo.name), &photo.bytes).unwrap();
    }
    let dataset = stack.client.empty_dataset("discs").await;
    // A server that does not answer.
    stack.api().signal(Signal::STOP);
    let mut adding = stack.cli_process("adding", &["datasets", "add", &dataset, photos.to_str().unwrap()]);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(adding.end(Signal::INT, seconds(20)).code(), Some(5), "{}", adding.log());
    stack.api().signal(Signal::CONT);
    let log = adding.log();
    assert!(log.contains("0 of 3 pictures") && log.contains(&format!("datasets show {dataset}")), "{log}");

    // A file whose upload takes long.
    let bytes: u64 = 3 << 30;
    let header = format!(r#"{{"t":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    let weights = stack.folder().join("large.safetensors");
    std::fs::write(&weights, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    File::options().write(true).open(&weights).unwrap().set_len(8 + header.len() as u64 + bytes).unwrap();
    let mut importing =
        stack.cli_process("importing", &["models", "import", weights.to_str().unwrap(), "--name", "large"]);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(importing.end(Signal::INT, seconds(20)).code(), Some(5), "{}", importing.log());
    assert!(importing.log().contains("pyrograph models show large"), "{}", importing.log());
    assert_eq!(stack.cli(&["models", "show", "large"]).status.code(), Some(4), "no model is left");
}

/// A generation can be found again after the process that requested it is lost.
#[tokio::test]
async fn what_was_asked_for_is_found_again() {
    let stack = Stack::start(Pace::Promised).await;
    let run = |arguments: &[&str]| {
        let output = stack.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let asking = ["generate", "an owl", "--model", "tiny", "--steps", "1", "--width", "32", "--height", "32"];
    let mut asked = stack.cli_process("asked", &asking);
    until(seconds(30), "it says that it waits", || async {
        asked.log().contains("waiting for a worker").then_some(())
    })
    .await;
    let listed = stack.cli_json(&["generations", "list"]);
    let id = text(&listed[0]["id"]);
    assert!(asked.log().contains(&id), "{}", asked.log());
    assert!(run(&["generations", "list"]).contains(&id) && run(&["generations", "show", &id]).contains("queued"));
    let early = stack.cli(&["generations", "show", &id, "--output", "early"]);
    assert_eq!(early.status.code(), Some(1), "no pictures yet");
    assert!(run(&["generations", "cancel", &id]).contains("canceled"));
    assert_eq!(asked.wait(seconds(30)).code(), Some(5));

    // The second process is killed, and its picture can still be fetched.
    let mut killed = stack.cli_process("killed", &asking);
    until(seconds(30), "it is queued", || async { killed.log().contains("waiting for a worker").then_some(()) }).await;
    killed.kill();
    let _worker = stack.worker("worker", "");
    let id = text(&stack.cli_json(&["generations", "list", "--limit", "1"])[0]["id"]);
    until(seconds(60), "it is made", || async {
        (stack.cli_json(&["generations", "show", &id])["status"] == "succeeded").then_some(())
    })
    .await;
    let owl = stack.folder().join("owl.png");
    let shown = stack.cli_json(&["generations", "show", &id, "--output", owl.to_str().unwrap()]);
    assert_eq!(text(&shown["artifacts"][0]["image_hash"]), md5(&std::fs::read(&owl).unwrap()));
    assert!(run(&["generations", "show", &id]).contains("http"), "its URL");
    run(&["generations", "remove", &id]);
    assert_eq!(stack.cli(&["generations", "show", &id]).status.code(), Some(4), "it is gone");
    stack.ledger.audit().await;
}

/// The committed OpenAPI document equals the binary's, and the server serves the same.
#[tokio::test]
async fn the_committed_openapi_file_is_the_served_one() {
    let stack = Stack::start(Pace::Promised).await;
    let printed: Value = serde_json::from_slice(&stack.cli(&["openapi"]).stdout).unwrap();
    let committed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/openapi.json")).unwrap();
    let committed: Value = serde_json::from_slice(&committed).unwrap();
    assert_eq!(printed, committed, "run `just bless`");
    let served = stack.client.get("/openapi.json").await.expect(200);
    assert_eq!(served["paths"], committed["paths"]);

    // Swagger UI works without the internet: everything it loads comes from this server.
    let page = stack.client.request(reqwest::Method::GET, "/docs/").send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "{page}");
}
