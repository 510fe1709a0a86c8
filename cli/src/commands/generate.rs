//! `pyrograph generate PROMPT`: generates pictures and downloads them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgGroup, Args};
use domain::model::WEIGHTS;
use requests::generation_limits::NUM_IMAGES;
use requests::{OutputFormat, PromptSyntax};
use serde_json::{Map, Value, json};

use super::{Outcome, finite, print_json, whole};
use crate::client::{
    Artifact, Client, ClientOptions, Generation, PictureInfo, Preview, create_input, follow_generation, read_picture,
    unless_interrupted,
};
use crate::failure::Failure;
use crate::output::{say, shown, tell};
use crate::picture_files::{check_format, check_free, check_output, check_writable, download, file_format};
use crate::whole_file;

/// Generate pictures from a prompt
///
/// Sends the request to the server, shows progress, and writes the pictures to files that carry their parameters: PNG
/// in text chunks, JPEG and WebP in EXIF and XMP. Flags that are left out take the model's defaults. The same seed
/// gives the same picture again. Ctrl-C cancels.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("input").args(["image", "from"]).multiple(true)))]
#[command(after_help = "\
Examples:
  pyrograph generate \"owl on a blue background\"
  pyrograph generate \"two owls\" --lora pencil:0.8 --seed 7 --num-images 4 --output pictures/
  pyrograph generate \"owl at night\" --image photo.jpg --strength 0.6
  pyrograph generate \"owl\" --num-images 4 --preview preview.jpg
  pyrograph generate \"owl\" --output owl.webp --quality 80
  pyrograph generate --from owl.webp --seed 8
  pyrograph generate \"owl\" --json | jq -r '.artifacts[].url'")]
pub(crate) struct Generate {
    /// What the picture shows; `<lora:NAME:WEIGHT>` in it applies a LoRA
    #[arg(required_unless_present = "from")]
    pub prompt: Option<String>,
    /// Take prompt, settings and input picture from the record in a picture; other flags take precedence
    #[arg(long, value_name = "PICTURE")]
    pub from: Option<PathBuf>,
    /// How the prompt is read: a1111, with tags and weights, or plain, as words only [default: a1111]
    #[arg(long, value_name = "SYNTAX")]
    pub prompt_syntax: Option<PromptSyntax>,
    /// Checkpoint, by name or id [default: ember]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// LoRA to apply, with an optional scale [default: 1]; repeatable
    #[arg(long = "lora", value_name = "NAME_OR_ID[:SCALE]")]
    pub loras: Vec<Lora>,
    /// Input picture for image to image: a file, or the id of an input or of an earlier picture
    #[arg(long, value_name = "FILE_OR_ID")]
    pub image: Option<OsString>,
    /// Mask for inpainting, white where the picture is repainted: a file or an id
    #[arg(long, value_name = "FILE_OR_ID", requires = "input")]
    pub mask: Option<OsString>,
    /// How much of the input picture may change, 0 to 1 [default: the model's; 1 with a mask]
    #[arg(long, value_name = "S", requires = "input", value_parser = finite, allow_negative_numbers = true)]
    pub strength: Option<f64>,
    /// Scheduler, such as euler, dpmpp_2m_karras or ddim [default: the model's]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Number of CLIP's last layers to skip
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub clip_skip: Option<i64>,
    /// What the picture does not show; needs --true-cfg-scale above 1 (FLUX.1, ember) or --guidance above 1 (others)
    #[arg(long, value_name = "T")]
    pub negative_prompt: Option<String>,
    /// Width in pixels, a multiple of the model's grid
    #[arg(long, value_name = "W", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub width: Option<i64>,
    /// Height in pixels, a multiple of the model's grid
    #[arg(long, value_name = "H", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub height: Option<i64>,
    /// Denoising steps
    #[arg(long, visible_alias = "num-inference-steps", value_name = "N", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub steps: Option<i64>,
    /// Guidance scale: classifier-free for Stable Diffusion, distilled for FLUX.1 dev; no effect on schnell and ember
    #[arg(
        long,
        visible_alias = "guidance-scale",
        value_name = "G",
        value_parser = finite,
        allow_negative_numbers = true
    )]
    pub guidance: Option<f64>,
    /// Classifier-free guidance for FLUX.1 and ember, at twice the cost; 1 turns it off [default: the model's]
    #[arg(long, value_name = "G", value_parser = finite, allow_negative_numbers = true)]
    pub true_cfg_scale: Option<f64>,
    /// Seed of the first picture; picture i uses seed + i [default: random, and printed]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub seed: Option<i64>,
    /// Number of pictures, 1 to 4
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub num_images: Option<i64>,
    /// Where to write the pictures: a folder, created if missing, or a file ending in .png, .jpg or .webp
    #[arg(long, value_name = "FILE_OR_DIR", default_value = ".")]
    pub output: PathBuf,
    /// Replace a file named by --output or --preview if it exists
    #[arg(long)]
    pub overwrite: bool,
    /// File format: png, jpeg or webp [default: that of the file named by --output, otherwise png]
    #[arg(long, value_name = "FORMAT", value_parser = output_format)]
    pub format: Option<OutputFormat>,
    /// Quality of JPEG and WebP, 1 to 100; 100 makes WebP lossless [default: 90]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub quality: Option<i64>,
    /// Write previews to this JPEG file, replaced with each one
    #[arg(long, value_name = "FILE.jpg")]
    pub preview: Option<PathBuf>,
    /// Steps between two previews [default: 1]
    #[arg(long, value_name = "N", requires = "preview", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub preview_every: Option<i64>,
    #[command(flatten)]
    pub client: ClientOptions,
}

/// `NAME_OR_ID[:SCALE]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lora {
    pub model: String,
    pub scale: f64,
}

impl FromStr for Lora {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // No name or scale has one, and the server would take the last part of a path for a name.
        if text.contains(['/', '\\']) {
            return Err(path_for_name(text));
        }
        let (model, scale) = match text.rsplit_once(':') {
            Some((model, scale)) => {
                (model, finite(scale).map_err(|_| format!("'{scale}' is not a scale; write NAME:0.8"))?)
            }
            None => (text, 1.0),
        };
        if WEIGHTS.iter().any(|ending| model.ends_with(ending)) && Path::new(model).exists() {
            return Err(path_for_name(model));
        }
        if model.is_empty() {
            return Err("the name of the LoRA is missing; write NAME or NAME:0.8".to_owned());
        }
        Ok(Self { model: model.to_owned(), scale })
    }
}

fn path_for_name(path: &str) -> String {
    format!(
        "'{path}' is a path, and LoRAs are named as on the server; import a file with \
         `pyrograph models import FILE --name NAME`, then give --lora NAME"
    )
}

fn output_format(name: &str) -> Result<OutputFormat, String> {
    OutputFormat::of_extension(name).ok_or_else(|| format!("'{name}' is not a format; there are png, jpeg and webp"))
}

impl Generate {
    /// The body of `POST /v1/generations`: the fields given on the command line, over those of `recorded`.
    fn request(&self, recorded: Map<String, Value>) -> Value {
        let mut request = recorded;
        let is_recorded = !request.is_empty();
        let format_of_record = request.get("output_format").cloned();
        let mut optional = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                request.insert(field.to_owned(), value);
            }
        };
        optional("prompt", self.prompt.clone().map(Value::from));
        optional("prompt_syntax", self.prompt_syntax.map(|syntax| syntax.as_str().into()));
        optional("model", self.model.clone().map(Value::from));
        optional("negative_prompt", self.negative_prompt.clone().map(Value::from));
        // Ids by now, which are UTF-8.
        for (field, picture) in [("image", &self.image), ("mask", &self.mask)] {
            optional(field, picture.as_ref().map(|picture| picture.to_string_lossy().into()));
        }
        optional("strength", self.strength.map(Value::from));
        optional("scheduler", self.scheduler.clone().map(Value::from));
        optional("clip_skip", self.clip_skip.map(Value::from));
        optional("width", self.width.map(Value::from));
        optional("height", self.height.map(Value::from));
        optional("num_inference_steps", self.steps.map(Value::from));
        optional("guidance_scale", self.guidance.map(Value::from));
        optional("true_cfg_scale", self.true_cfg_scale.map(Value::from));
        optional("seed", self.seed.map(Value::from));
        optional("num_images", self.num_images.map(Value::from));
        optional("preview_every", self.preview.as_ref().map(|_| self.preview_every.unwrap_or(1).into()));
        // PNG is what the server makes anyway.
        let of_output = file_format(&self.output).filter(|format| is_recorded || *format != OutputFormat::Png);
        optional("output_format", self.format.or(of_output).map(|format| format.as_str().into()));
        optional("output_quality", self.quality.map(Value::from));
        if !self.loras.is_empty() {
            let loras = self.loras.iter().map(|lora| json!({ "model": lora.model, "scale": lora.scale }));
            optional("loras", Some(loras.collect()));
        }
        if self.quality.is_none() && request.get("output_format") != format_of_record.as_ref() {
            request.remove("output_quality");
        }
        Value::Object(request)
    }

    /// Runs the command.
    pub(crate) async fn run(mut self) -> Outcome {
        check_output(&self.output)?;
        check_format(&self.output, self.format)?;
        check_writable(&self.output)?;
        self.preview.as_deref().map_or(Ok(()), |preview| check_preview(preview, &self.output, self.overwrite))?;
        let client = Client::new(&self.client)?;
        let recorded = match &self.from {
            Some(picture) => {
                let info = unless_interrupted(read_picture(&client, picture, self.model.as_deref())).await?;
                let flags = self.request(Map::new());
                recorded(info, picture, &flags, |warning| tell!("warning: {warning}"))?
            }
            None => Map::new(),
        };
        for picture in [&mut self.image, &mut self.mask].into_iter().flatten() {
            let path = Path::new(picture);
            if path.exists() {
                *picture = unless_interrupted(create_input(&client, path)).await?.into();
            } else if picture.to_str().is_none_or(|id| id.parse::<uuid::Uuid>().is_err()) {
                let shown = shown(path);
                return Err(Failure::Usage(format!("there is no file {shown}, and it is not the id of a picture")));
            }
        }
        let request = self.request(recorded);
        let count = request["num_images"].as_u64().map_or(1, |count| count.min(u64::from(*NUM_IMAGES.end())));
        check_free(&self.output, 0..count as u32, self.overwrite)?;
        let created: Value = unless_interrupted(client.post("/v1/generations", &request)).await?;
        // The id lets the user find the pictures if this process is killed.
        tell!("generation {}", created["id"].as_str().unwrap_or_default());
        let preview = self.preview.as_deref().map(|file| Preview { file, overwrite: self.overwrite });
        let mut last = follow_generation(&client, created, "generating", preview).await?;
        let generation: Generation = Client::understand(last.clone())?;
        for warning in &generation.warnings {
            tell!("warning: {warning}");
        }
        let places = unless_interrupted(download(&client, &generation, &self.output, self.overwrite)).await;
        if places.is_err() {
            tell!(
                "The pictures are on the server: `pyrograph generations show {} --output FILE_OR_DIR` downloads them.",
                generation.id
            );
        }
        let places = places?;
        if self.client.json {
            last["files"] = places.iter().map(|place| place.display().to_string()).collect();
            print_json(&last)?;
        } else {
            for (artifact, place) in generation.artifacts.iter().zip(&places) {
                match artifact.seed {
                    Some(seed) => say!("{}  (seed {seed})", place.display())?,
                    None => say!("{}", place.display())?,
                }
            }
        }
        Ok(())
    }
}

/// The request that `picture` records. Values that it cannot hold are warned of, unless `flags`, the fields of the
/// command line, replace them.
fn recorded(
    info: PictureInfo,
    picture: &Path,
    flags: &Value,
    mut warn: impl FnMut(String),
) -> Result<Map<String, Value>, Failure> {
    let given = |field: &str| flags.get(if field == "lora" { "loras" } else { field }).is_some();
    let shown = shown(picture);
    let Some(mut request) = info.request.clone() else {
        return Err(Failure::Failed(anyhow::anyhow!(info.says_nothing(picture))));
    };
    for one in info.unmapped.iter().filter(|one| !given(&one.field)) {
        let no_words = request.get("prompt").and_then(Value::as_str).is_none_or(|prompt| prompt.trim().is_empty());
        if one.field == "prompt" && no_words {
            return Err(Failure::Usage(format!("the prompt of {shown} is not taken: {} Give a prompt.", one.reason)));
        }
        // Only the server lacked the picture that it is about.
        let strength = one.value.parse::<f64>().ok().filter(|_| one.field == "strength");
        if let (Some(strength), true, false) = (strength, given("image"), request.contains_key("image")) {
            request.insert("strength".to_owned(), strength.into());
            continue;
        }
        warn(format!("{} is not taken from {shown}: {}", one.title(), one.reason));
    }
    if given("prompt") && !given("loras") {
        remove_loras_of_prompt(&mut request, info.program.as_deref());
    }
    Ok(request)
}

/// Removes the LoRAs that the prompt of a record applied with tags: another prompt does not name them.
fn remove_loras_of_prompt(request: &mut Map<String, Value>, program: Option<&str>) {
    // It has no other LoRAs, and the server has removed the tags from its prompt.
    if program == Some("a1111") {
        request.remove("loras");
        return;
    }
    let prompt = request.get("prompt").and_then(Value::as_str).unwrap_or_default();
    let syntax = request.get("prompt_syntax").and_then(Value::as_str).and_then(|name| name.parse().ok());
    let tags = syntax.unwrap_or(PromptSyntax::A1111).networks(prompt).loras.into_iter().flatten();
    let named: Vec<String> = tags.flat_map(|tag| domain::model::spellings(&tag.name)).collect();
    if let Some(loras) = request.get_mut("loras").and_then(Value::as_array_mut) {
        loras.retain(|lora| !named.iter().any(|name| lora["model"] == name.as_str()));
    }
}

/// Refuses a preview that is not a JPEG file, that the picture would replace, or that exists.
fn check_preview(file: &Path, output: &Path, overwrite: bool) -> Outcome {
    if !ends_in(file, &["jpg", "jpeg"]) || file.is_dir() {
        return Err(Failure::Usage(format!("--preview {} is not a file ending in .jpg", shown(file))));
    }
    if file == output {
        return Err(Failure::Usage(format!("--preview and --output are the same file, {}", shown(file))));
    }
    whole_file::check_free(file, overwrite)?;
    whole_file::check_writable(file)
}

fn ends_in(file: &Path, endings: &[&str]) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    endings.iter().any(|one| ending.eq_ignore_ascii_case(one))
}

/// Fails if the generation has no picture.
pub(crate) fn only_picture(generation: &Generation) -> Result<&Artifact, Failure> {
    generation
        .artifacts
        .first()
        .ok_or_else(|| Failure::Failed(anyhow::anyhow!("generation {} has no picture", generation.id)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        generate: Generate,
    }

    fn parse(line: &[&str]) -> Result<Generate, clap::Error> {
        Line::try_parse_from([&["generate"], line].concat()).map(|line| line.generate)
    }

    #[test]
    fn a_bare_prompt_asks_for_nothing_else() {
        assert_eq!(parse(&["a fox"]).unwrap().request(Map::new()), json!({ "prompt": "a fox" }));
    }

    #[test]
    fn a_lora_is_named_and_no_file_is_taken_for_its_name() {
        for path in ["other/dog.safetensors", "./dog", "other/dog.safetensors:0.8", r"C:\loras\dog.safetensors"] {
            let why = path.parse::<Lora>().unwrap_err();
            assert!(why.contains(&format!("'{path}' is a path")) && why.contains("pyrograph models import"), "{why}");
        }
        let folder = tempfile::Builder::new().prefix("dog").suffix(".safetensors").tempfile_in(".").unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        assert!(format!("{name}:0.5").parse::<Lora>().unwrap_err().contains("models import"));
        for (text, model, scale) in
            [("dog", "dog", 1.0), ("dog.v2:0.5", "dog.v2", 0.5), ("no-such.pt", "no-such.pt", 1.0)]
        {
            assert_eq!(text.parse(), Ok(Lora { model: model.to_owned(), scale }));
        }
    }

    #[test]
    fn what_a_record_lacks_is_named_unless_a_flag_replaces_it() {
        let read = |unmapped: Value, prompt: &str, line: &[&str]| {
            let info = json!({"program": "comfyui", "request": {"prompt": prompt, "seed": 7}, "unmapped": unmapped});
            let info = serde_json::from_value(info).unwrap();
            let flags = parse(&[&["--from", "fox.png"], line].concat()).unwrap().request(Map::new());
            let mut warnings = Vec::new();
            let request = recorded(info, Path::new("fox.png"), &flags, |warning| warnings.push(warning));
            request.map(|request| (Value::Object(request), warnings))
        };
        let lora = json!([{"field": "lora", "value": "ink", "reason": "There is no such LoRA."}]);
        let (_, warnings) = read(lora.clone(), "a fox", &[]).unwrap();
        assert_eq!(warnings, ["LoRA `ink` is not taken from fox.png: There is no such LoRA."]);
        assert!(read(lora, "a fox", &["--lora", "pencil"]).unwrap().1.is_empty());

        let strength = json!([{"field": "strength", "value": "0.6", "reason": "It is about the picture."}]);
        let (request, warnings) = read(strength.clone(), "a fox", &["--image", "photo.jpg"]).unwrap();
        assert!(request["strength"] == 0.6 && warnings.is_empty(), "{request} {warnings:?}");
        let (request, warnings) = read(strength, "a fox", &[]).unwrap();
        assert!(request.get("strength").is_none() && warnings.len() == 1, "{request} {warnings:?}");

        let prompt = json!([{"field": "prompt", "value": "", "reason": "The prompt could not be read."}]);
        let Err(Failure::Usage(why)) = read(prompt.clone(), " ", &[]) else { panic!("it makes some picture") };
        assert!(why.contains("could not be read"), "{why}");
        assert!(read(prompt, " ", &["an owl"]).is_ok());
    }

    #[test]
    fn another_prompt_does_not_keep_the_loras_of_tags() {
        let read = |program: &str, prompt: &str, line: &[&str]| {
            let loras = json!([{"model": "ink", "scale": 0.5}, {"model": "pencil", "scale": 1.0}]);
            let info = json!({"program": program, "request": {"prompt": prompt, "loras": loras}});
            let generate = parse(&[&["--from", "fox.png"], line].concat()).unwrap();
            let flags = generate.request(Map::new());
            let info = serde_json::from_value(info).unwrap();
            generate.request(recorded(info, Path::new("fox.png"), &flags, |_| {}).unwrap())["loras"].clone()
        };
        let names = |loras: Value| -> Vec<String> {
            let loras = loras.as_array().cloned().unwrap_or_default();
            loras.iter().map(|lora| lora["model"].as_str().unwrap().to_owned()).collect()
        };
        let tagged = "a fox <lora:Ink:0.5>";
        assert_eq!(names(read("pyrograph", tagged, &[])), ["ink", "pencil"]);
        assert_eq!(names(read("pyrograph", tagged, &["--seed", "8"])), ["ink", "pencil"]);
        assert_eq!(names(read("pyrograph", tagged, &["green frog"])), ["pencil"], "the field `loras` stays");
        assert_eq!(names(read("pyrograph", tagged, &["green frog", "--lora", "clay"])), ["clay"]);
        assert_eq!(names(read("comfyui", "a fox", &["green frog"])), ["ink", "pencil"]);
        assert!(names(read("a1111", "a fox", &["green frog"])).is_empty(), "it has LoRAs of tags only");
    }

    #[test]
    fn flags_take_precedence_over_a_record() {
        let recorded = json!({"prompt": "a fox", "seed": 7, "output_format": "jpeg", "output_quality": 80});
        let request = |line: &[&str]| {
            parse(&[&["--from", "fox.jpg"], line].concat()).unwrap().request(recorded.as_object().unwrap().clone())
        };
        assert_eq!(request(&[]), recorded);
        assert_eq!(request(&["an owl", "--seed", "8"])["prompt"], "an owl");
        let png = request(&["--output", "fox.png"]);
        assert_eq!(png, json!({"prompt": "a fox", "seed": 7, "output_format": "png"}));
        assert_eq!(request(&["--output", "fox.jpg"])["output_quality"], 80);
        assert!(parse(&[]).is_err(), "neither a prompt nor a picture");

        // The record may have the input picture.
        let strength = request(&["--strength", "0.8", "--mask", "mask.png"]);
        assert!(strength["strength"] == 0.8 && strength["mask"] == "mask.png", "{strength}");
        for flag in ["--strength", "--mask"] {
            let why = parse(&["a fox", flag, "1"]).unwrap_err().to_string();
            assert!(why.contains("--image") && why.contains("--from"), "{why}");
        }
    }

    #[test]
    fn every_flag_reaches_the_request() {
        let generate = parse(&[
            "a fox",
            "--model",
            "ember",
            "--lora",
            "pencil:0.5",
            "--lora",
            "ink",
            "--negative-prompt",
            "blurry",
            "--prompt-syntax",
            "plain",
            "--image",
            "photo.jpg",
            "--mask",
            "mask.png",
            "--strength",
            "0.5",
            "--scheduler",
            "euler",
            "--clip-skip",
            "1",
            "--width",
            "64",
            "--height",
            "96",
            "--steps",
            "12",
            "--guidance",
            "3.5",
            "--true-cfg-scale",
            "2",
            "--seed",
            "-1",
            "--num-images",
            "2",
            "--output",
            "x.webp",
            "--format",
            "webp",
            "--quality",
            "80",
            "--preview",
            "x.jpg",
            "--preview-every",
            "3",
        ])
        .unwrap();
        assert_eq!(
            generate.request(Map::new()),
            json!({
                "prompt": "a fox", "model": "ember", "negative_prompt": "blurry", "prompt_syntax": "plain",
                "image": "photo.jpg",
                "mask": "mask.png", "strength": 0.5, "scheduler": "euler", "clip_skip": 1,
                "width": 64, "height": 96, "num_inference_steps": 12,
                "guidance_scale": 3.5, "true_cfg_scale": 2.0, "seed": -1, "num_images": 2, "preview_every": 3,
                "output_format": "webp", "output_quality": 80,
                "loras": [{ "model": "pencil", "scale": 0.5 }, { "model": "ink", "scale": 1.0 }],
            })
        );
        assert_eq!(generate.output, Path::new("x.webp"));
    }

    #[test]
    fn numbers_are_finite_and_their_range_is_the_servers() {
        for flag in ["--guidance", "--true-cfg-scale", "--lora"] {
            for wrong in ["nan", "inf", "1e999", "much"] {
                let wrong = if flag == "--lora" { format!("ink:{wrong}") } else { wrong.to_owned() };
                assert!(parse(&["a fox", flag, &wrong]).is_err(), "{flag} {wrong}");
            }
        }
        let flags = [
            ("--guidance", "guidance_scale"),
            ("--width", "width"),
            ("--height", "height"),
            ("--steps", "num_inference_steps"),
            ("--num-images", "num_images"),
            ("--clip-skip", "clip_skip"),
        ];
        for (flag, field) in flags {
            assert_eq!(
                parse(&["a fox", flag, "-5"]).unwrap().request(Map::new())[field].as_f64(),
                Some(-5.0),
                "{flag}"
            );
        }
    }

    #[test]
    fn a_preview_is_a_new_jpeg() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let preview = |name: &str, overwrite| check_preview(&path(name), &path("fox.jpg"), overwrite);
        for wrong in ["owl.txt", "fox.jpg"] {
            assert!(matches!(preview(wrong, true), Err(Failure::Usage(_))), "{wrong}");
        }
        for right in ["owl.jpg", "OWL.JPEG"] {
            preview(right, false).unwrap();
            std::fs::write(path(right), "older").unwrap();
            let Err(Failure::Usage(why)) = preview(right, false) else { panic!("{right} is replaced") };
            assert!(why.contains("--overwrite"), "{why}");
            preview(right, true).unwrap();
        }
    }

    #[test]
    fn the_output_names_the_format() {
        let format =
            |line: &[&str]| parse(&[&["a fox"], line].concat()).unwrap().request(Map::new())["output_format"].clone();
        assert_eq!(format(&["--output", "fox.png"]), Value::Null, "the server's default");
        assert_eq!(format(&["--output", "fox.JPG"]), "jpeg");
        assert_eq!(format(&["--output", "fox.webp"]), "webp");
        assert_eq!(format(&["--output", "v1.webp/"]), Value::Null, "a folder");
        assert_eq!(format(&["--format", "jpg", "--output", "new"]), "jpeg");
        assert!(parse(&["a fox", "--format", "gif"]).is_err());
    }

    #[test]
    fn a_scale_is_a_number() {
        assert_eq!("ink:-0.25".parse::<Lora>().unwrap(), Lora { model: "ink".into(), scale: -0.25 });
        for wrong in ["ink:", "ink:much", "ink:NaN", ":1", ""] {
            assert!(wrong.parse::<Lora>().is_err(), "{wrong}");
        }
    }
}
