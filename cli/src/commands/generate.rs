//! `pyrograph generate PROMPT`: pictures from words, written where the user wants them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Outcome, finite, print_json};
use crate::client::{Artifact, Client, ClientOptions, Generation, create_input, follow_generation};
use crate::failure::Failure;
use crate::output::say;

/// Make pictures from a prompt
///
/// Sends the request to the server, shows its progress and writes the pictures as PNG files, which carry their
/// parameters as text chunks. What is left out comes from the model's own defaults. The same seed gives the same
/// picture again; Ctrl-C cancels.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pyrograph generate \"owl on a blue background\"
  pyrograph generate \"two owls\" --lora pencil:0.8 --seed 7 --num-images 4 --output pictures/
  pyrograph generate \"owl at night\" --image photo.jpg --strength 0.6
  pyrograph generate \"owl\" --num-images 4 --preview owl-at-work.jpg
  pyrograph generate \"owl\" --json | jq -r '.artifacts[].url'")]
pub struct Generate {
    /// What the picture should show
    pub prompt: String,
    /// Checkpoint to use, by name or id [default: the server's, ember]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// LoRA to add, with an optional scale (1 unless told); may be given several times
    #[arg(long = "lora", value_name = "NAME_OR_ID[:SCALE]")]
    pub loras: Vec<Lora>,
    /// Picture to begin with: a file, or the id of an input or of an earlier picture
    #[arg(long, value_name = "FILE_OR_ID")]
    pub image: Option<String>,
    /// White where the picture is to be painted anew: a file or an id
    #[arg(long, value_name = "FILE_OR_ID", requires = "image")]
    pub mask: Option<String>,
    /// Denoising strength, 0 to 1: how much of the picture may change [default: the model's, with a mask 1]
    #[arg(long, value_name = "S", requires = "image", value_parser = finite, allow_negative_numbers = true)]
    pub strength: Option<f64>,
    /// Solver of the denoising, such as euler, dpmpp_2m_karras or ddim [default: the model's]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// How many of CLIP's last layers are left out
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub clip_skip: Option<i64>,
    /// What the picture should not show; FLUX.1 and ember hear it with --true-cfg-scale above 1, the others with --guidance
    #[arg(long, value_name = "T")]
    pub negative_prompt: Option<String>,
    /// Width in pixels, a multiple of the model's grid
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    pub width: Option<i64>,
    /// Height in pixels, a multiple of the model's grid
    #[arg(long, value_name = "H", allow_negative_numbers = true)]
    pub height: Option<i64>,
    /// Denoising steps
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<i64>,
    /// How closely to follow the prompt: classifier-free for Stable Diffusion, built in for FLUX.1 dev; schnell and ember have none
    #[arg(long, value_name = "G", value_parser = finite, allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// The same for FLUX.1 and ember, classifier-free and so twice the work; 1 is none [default: the model's]
    #[arg(long, value_name = "G", value_parser = finite, allow_negative_numbers = true)]
    pub true_cfg_scale: Option<f64>,
    /// Seed of the first picture; picture i uses seed + i [default: drawn, and told]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Number of pictures, 1 to 4
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub num_images: Option<i64>,
    /// Where the pictures go: a folder, made if need be, or a file when it ends in .png
    #[arg(long, value_name = "FILE_OR_DIR", default_value = ".")]
    pub output: PathBuf,
    /// Show the picture at work: a JPEG file that is written anew as it grows, rough and small
    #[arg(long, value_name = "FILE.jpg")]
    pub preview: Option<PathBuf>,
    /// Steps between two previews [default: 1]
    #[arg(long, value_name = "N", requires = "preview", allow_negative_numbers = true)]
    pub preview_every: Option<i64>,
    #[command(flatten)]
    pub client: ClientOptions,
}

/// `NAME_OR_ID[:SCALE]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    pub model: String,
    pub scale: f64,
}

impl FromStr for Lora {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (model, scale) = match text.rsplit_once(':') {
            Some((model, scale)) => {
                (model, finite(scale).map_err(|_| format!("'{scale}' is not a scale; write NAME:0.8"))?)
            }
            None => (text, 1.0),
        };
        if model.is_empty() {
            return Err("the name of the LoRA is missing; write NAME or NAME:0.8".to_owned());
        }
        Ok(Self { model: model.to_owned(), scale })
    }
}

impl Generate {
    /// The body of `POST /v1/generations`: only what was said on the command line.
    fn request(&self) -> Value {
        let mut request = Map::new();
        request.insert("prompt".into(), self.prompt.clone().into());
        let mut optional = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                request.insert(field.to_owned(), value);
            }
        };
        optional("model", self.model.clone().map(Value::from));
        optional("negative_prompt", self.negative_prompt.clone().map(Value::from));
        optional("image", self.image.clone().map(Value::from));
        optional("mask", self.mask.clone().map(Value::from));
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
        if !self.loras.is_empty() {
            let loras = self.loras.iter().map(|lora| json!({ "model": lora.model, "scale": lora.scale }));
            optional("loras", Some(loras.collect()));
        }
        Value::Object(request)
    }

    /// Runs the command.
    pub async fn run(mut self) -> Outcome {
        check_output(&self.output)?;
        self.preview.as_deref().map_or(Ok(()), check_preview)?;
        let client = Client::new(&self.client.server)?;
        for picture in [&mut self.image, &mut self.mask].into_iter().flatten() {
            if Path::new(picture.as_str()).exists() {
                *picture = create_input(&client, Path::new(picture.as_str())).await?;
            } else if picture.parse::<uuid::Uuid>().is_err() {
                return Err(Failure::Usage(format!("there is no file {picture}, and it is no id of a picture")));
            }
        }
        let created: Value = client.post("/v1/generations", &self.request()).await?;
        // Whoever loses this process finds the pictures by it.
        eprintln!("generation {}", created["id"].as_str().unwrap_or_default());
        let mut last = follow_generation(&client, created, "generating", self.preview.as_deref()).await?;
        let generation: Generation = Client::understand(last.clone())?;
        for warning in &generation.warnings {
            eprintln!("warning: {warning}");
        }
        let places = download(&client, &generation, &self.output).await?;
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

/// Writes the pictures of a generation to `output`, which [`check_output`] has let pass; gives their files.
pub async fn download(client: &Client, generation: &Generation, output: &Path) -> Result<Vec<PathBuf>, Failure> {
    let places = places(output, &generation.id, &generation.artifacts);
    for (artifact, place) in generation.artifacts.iter().zip(&places) {
        client.download(&artifact.url, place).await?;
    }
    Ok(places)
}

/// Whether `output` is the folder for pictures: one that is there, or by its name.
fn is_folder(output: &Path) -> bool {
    output.is_dir() || output.extension().is_none() || output.as_os_str().to_string_lossy().ends_with('/')
}

/// Refuses a place where pictures would be taken for something else, or be written over something else.
pub fn check_output(output: &Path) -> Outcome {
    let shown = output.display();
    if output.is_dir() || ends_in(output, &["png"]) && !is_folder(output) {
        return Ok(());
    }
    if !is_folder(output) {
        return Err(Failure::Usage(format!(
            "--output {shown} is no folder and does not end in .png; a new folder whose name has a dot ends in /"
        )));
    }
    // Without the slash at its end, with which no file is found.
    match output.components().as_path().exists() {
        true => Err(Failure::Usage(format!("--output {shown} is a file that does not end in .png"))),
        false => Ok(()),
    }
}

fn check_preview(file: &Path) -> Outcome {
    if ends_in(file, &["jpg", "jpeg"]) && !file.is_dir() {
        return Ok(());
    }
    Err(Failure::Usage(format!("--preview {} is no file that ends in .jpg", file.display())))
}

fn ends_in(file: &Path, endings: &[&str]) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    endings.iter().any(|one| ending.eq_ignore_ascii_case(one))
}

/// Where each picture goes. One picture takes the file's name as it stands; several get their position before the ending.
fn places(output: &Path, generation: &str, artifacts: &[Artifact]) -> Vec<PathBuf> {
    let is_folder = is_folder(output);
    artifacts
        .iter()
        .map(|artifact| {
            if is_folder {
                return output.join(format!("{generation}-{}.{}", artifact.position, artifact.extension()));
            }
            if artifacts.len() == 1 {
                return output.to_owned();
            }
            let stem = output.file_stem().unwrap_or_default().to_string_lossy();
            let extension = output.extension().unwrap_or_default().to_string_lossy();
            output.with_file_name(format!("{stem}-{}.{extension}", artifact.position))
        })
        .collect()
}

/// Refuses a generation that made nothing: an answer without pictures is no success.
pub fn only_picture(generation: &Generation) -> Result<&Artifact, Failure> {
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
        assert_eq!(parse(&["a fox"]).unwrap().request(), json!({ "prompt": "a fox" }));
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
            "x.png",
            "--preview",
            "x.jpg",
            "--preview-every",
            "3",
        ])
        .unwrap();
        assert_eq!(
            generate.request(),
            json!({
                "prompt": "a fox", "model": "ember", "negative_prompt": "blurry", "image": "photo.jpg",
                "mask": "mask.png", "strength": 0.5, "scheduler": "euler", "clip_skip": 1, "width": 64, "height": 96, "num_inference_steps": 12,
                "guidance_scale": 3.5, "true_cfg_scale": 2.0, "seed": -1, "num_images": 2, "preview_every": 3,
                "loras": [{ "model": "pencil", "scale": 0.5 }, { "model": "ink", "scale": 1.0 }],
            })
        );
        assert_eq!(generate.output, Path::new("x.png"));
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
            assert_eq!(parse(&["a fox", flag, "-5"]).unwrap().request()[field].as_f64(), Some(-5.0), "{flag}");
        }
    }

    #[test]
    fn only_pictures_are_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("owl.txt"), "an owl").unwrap();
        std::fs::write(path("caption"), "an owl").unwrap();
        std::fs::create_dir(path("of.pictures")).unwrap();
        for wrong in ["owl.txt", "new.jpg", "caption", "caption/"] {
            let Err(Failure::Usage(why)) = check_output(&path(wrong)) else { panic!("{wrong} was taken") };
            assert!(why.contains(path(wrong).to_str().unwrap()), "{why}");
        }
        for right in ["owl.png", "OWL.PNG", "of.pictures", "v1.0/", "new"] {
            check_output(&path(right)).unwrap();
        }
        assert!(check_preview(Path::new("owl.txt")).is_err());
        for right in ["owl.jpg", "OWL.JPEG"] {
            check_preview(Path::new(right)).unwrap();
        }
    }

    #[test]
    fn a_scale_is_a_number() {
        assert_eq!("ink:-0.25".parse::<Lora>().unwrap(), Lora { model: "ink".into(), scale: -0.25 });
        for wrong in ["ink:", "ink:much", "ink:NaN", ":1", ""] {
            assert!(wrong.parse::<Lora>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pictures_go_where_the_user_points() {
        let artifact = |position| Artifact { url: String::new(), position, media_type: "image/png".into(), seed: None };
        let one = [artifact(0)];
        let two = [artifact(0), artifact(1)];
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(places(folder.path(), "g", &one), [folder.path().join("g-0.png")]);
        assert_eq!(places(Path::new("new/folder"), "g", &one), [Path::new("new/folder/g-0.png")]);
        assert_eq!(places(Path::new("fox.png"), "g", &one), [Path::new("fox.png")]);
        assert_eq!(places(Path::new("a/fox.png"), "g", &two), [Path::new("a/fox-0.png"), Path::new("a/fox-1.png")]);
    }
}
