//! `pyrograph demo`: one complete example through the REST API: a dataset, a training, a LoRA, and pictures without and
//! with it on one contact sheet.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use diffusion::device::DeviceChoice;
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Outcome;
use super::engine_flags::EngineFlags;
use super::generate::only_picture;
use super::listen_flags::{Bind, ListenFlags};
use crate::client::{Artifact, Client, Dataset, Generation, Job, Pictures, Training, follow, free_name};
use crate::contact_sheet::{ContactSheet, Pair};
use crate::failure::Failure;
use crate::installation::write_private;
use crate::meter::Meter;
use crate::output::{say, tell};
use crate::platform::Platform;
use crate::{built_in, log, platform};

/// The built-in dataset (`datasets/pyrography`), the name of the LoRA if it is free, and the word that all captions
/// contain.
const STYLE: &str = "pyrography";
const STEPS: u32 = 300;
const RANK: u32 = 16;
const LEARNING_RATE: f64 = 2e-3;
const BATCH_SIZE: u32 = 4;
const TRAINING_SEED: u32 = 1;
/// A [`Record`] in the data folder.
const RECORD: &str = "demo.json";
/// Marks an output folder whose files a demo wrote, so that the next demo replaces them.
const MARK: &str = ".pyrograph-demo";
const DATASET_FOLDER: &str = "dataset";
const SHEET: &str = "contact-sheet.png";
/// The pictures of a pair.
const HALVES: [&str; 2] = ["without", "with"];
/// How long a worker may take to let go of a canceled job.
const CANCELING: Duration = Duration::from_mins(1);
/// Objects that the dataset does not show, prompted in the form of its captions. Object i has the seed 100 + i.
const THINGS: [&str; 8] =
    ["dog face", "rocket", "snail", "pear", "teddy bear", "tropical fish", "alarm clock", "house"];
const FIRST_SEED: u32 = 100;

fn prompt(thing: &str) -> String {
    format!("{thing} in {STYLE} style")
}

/// Run one complete example: a dataset, a training, pictures without and with the LoRA
///
/// Starts everything in a folder, creates a dataset from built-in pictures, trains a LoRA on the built-in checkpoint,
/// generates pictures with the same prompts and seeds without and with it, prints presigned URLs, writes the
/// pictures and a contact sheet, and stops everything. `pyrograph up` has the LoRA afterwards.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Folder for all data, as in `pyrograph up`
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
    /// Folder for the pictures, the contact sheet and the LoRA
    #[arg(long, default_value = "out", value_name = "DIR")]
    output: PathBuf,
    /// Replace files in the output folder that no demo wrote
    #[arg(long)]
    overwrite: bool,
    /// Device of the worker: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

impl Demo {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        self.claim_output()?;
        let (stop, worker) = platform::stop_token(&self.data_dir);
        let meter = Meter::wait("starting Postgres, S3, the API and a worker");
        let started = Instant::now();
        let anywhere = ListenFlags {
            bind: Bind::Address(SocketAddr::from(([127, 0, 0, 1], 0))),
            socket_mode: 0,
            proxies: api::Proxies::default(),
            open: false,
            no_outbox: false,
        };
        let engine = EngineFlags { device: self.device, ..EngineFlags::default() };
        let mut platform = Platform::start(&self.data_dir, &anywhere, &engine, log::CLIENT, worker).await?;
        meter.finish(&format!(
            "Everything is running ({:.1} s): API {}, S3 {}, data {}",
            started.elapsed().as_secs_f64(),
            platform.url(),
            platform.storage_endpoint(),
            platform.folder().display()
        ));
        if let Some(place) = platform.database_outside() {
            tell!("The database is not in the data folder, but in {}.", place.display());
        }
        let server = platform.url().parse().context("an address")?;
        let client = Client::with_key(&server, platform.key().await?)?;
        let record = platform.folder().join(RECORD);
        let asked = RefCell::default();
        let walked = tokio::select! {
            walked = self.walk(&client, &record, &asked) => walked,
            ended = platform.ended() => Err(ended),
            () = stop.cancelled() => {
                cancel(&client, asked.take()).await;
                Err(interrupted())
            }
        };
        let meter = Meter::wait("stopping the worker, the API, S3 and Postgres");
        let stopped = platform.stop().await;
        meter.finish("Everything is stopped.");
        walked.and(stopped)
    }

    /// Creates the output folder and marks it as a demo's.
    ///
    /// # Errors
    /// A file that the demo would replace is there, no demo has marked the folder, and `--overwrite` is not given.
    fn claim_output(&self) -> Outcome {
        let mark = self.output.join(MARK);
        if !self.overwrite && !mark.is_file() {
            let mut files = file_names().into_iter().map(|name| self.output.join(name));
            if let Some(file) = files.find(|file| file.exists()) {
                return Err(Failure::Usage(format!(
                    "{} exists, and no demo wrote it; name another folder with --output, or give --overwrite",
                    file.display()
                )));
            }
        }
        let text = "`pyrograph demo` wrote the files in this folder, and replaces them when it runs again.\n";
        let written = std::fs::create_dir_all(&self.output).and_then(|()| std::fs::write(&mark, text));
        Ok(written.with_context(|| format!("could not write {}", mark.display()))?)
    }

    /// `record` is the file for what the next demo may remove, and `asked` gets the jobs as they are requested.
    async fn walk(&self, client: &Client, record: &Path, asked: &RefCell<Vec<Job>>) -> Outcome {
        let started = Instant::now();
        let (dataset, training_pictures) = self.dataset(client).await?;
        tell!(
            "Dataset {} of {} pictures ({:.1} s)",
            dataset.name,
            training_pictures.len(),
            started.elapsed().as_secs_f64()
        );

        let training_started = Instant::now();
        let (lora, training) = self.train(client, &dataset, record, asked).await?;
        let training_seconds = training_started.elapsed().as_secs_f64();
        tell!("LoRA {lora} trained for {STEPS} steps in {training_seconds:.0} s");

        let generation_started = Instant::now();
        let made = self.generate(client, &lora, asked).await?;
        tell!("{} pictures in {:.1} s", 2 * made.len(), generation_started.elapsed().as_secs_f64());

        say!(
            "Presigned URLs. In the built-in storage they end with this demo, whose port is another one each time; \
             after `pyrograph up`, `pyrograph generations show ID` prints new ones:"
        )?;
        if let Some(adapter) = training.artifacts.first() {
            say!("  {}", adapter_name())?;
            say!("    {}", adapter.url)?;
        }
        for made in &made {
            say!("  {}", made.prompt)?;
            say!("    without  {}", made.artifacts[0].url)?;
            say!("    with     {}", made.artifacts[1].url)?;
        }
        self.write_sheet(&lora, &training_pictures, &made, training_seconds)?;
        say!("Pictures, adapter and contact sheet: {}", self.output.join(SHEET).display())?;
        Ok(())
    }

    /// Writes the built-in pictures to the output folder, where the user can look at them, and uploads them.
    async fn dataset(&self, client: &Client) -> Result<(Dataset, Vec<RgbImage>), Failure> {
        let bundled = built_in::dataset(STYLE);
        if bundled.is_empty() {
            return Err(Failure::Failed(anyhow::anyhow!("this build does not contain the pictures named {STYLE}")));
        }
        let folder = self.output.join(DATASET_FOLDER);
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let mut shown = Vec::new();
        for picture in &bundled {
            let path = folder.join(&picture.file_name);
            std::fs::write(&path, &picture.png).with_context(|| format!("could not write {}", path.display()))?;
            let path = path.with_extension("txt");
            std::fs::write(&path, &picture.caption).with_context(|| format!("could not write {}", path.display()))?;
            shown.push(image::load_from_memory(&picture.png).context("a bundled picture")?.to_rgb8());
        }
        Ok((Pictures::of(&folder)?.create_dataset(client, STYLE).await?.0, shown))
    }

    /// Trains the LoRA. Returns its name too.
    async fn train(
        &self,
        client: &Client,
        dataset: &Dataset,
        record: &Path,
        asked: &RefCell<Vec<Job>>,
    ) -> Result<(String, Training), Failure> {
        remove_earlier(client, record).await?;
        let name = free_name(STYLE, &taken_names(client).await?);
        if name != STYLE {
            tell!("There is a model {STYLE} already; the LoRA of the demo is {name}.");
        }
        let request = json!({
            "name": name, "dataset": dataset.id, "model": built_in::CHECKPOINT, "trigger_word": STYLE,
            "steps": STEPS, "rank": RANK, "learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE,
            "seed": TRAINING_SEED,
        });
        let created: Value = client.post("/v1/trainings", &request).await?;
        asked.borrow_mut().push(Client::understand(created.clone())?);
        Record::of(&created)?.write(record)?;
        let training: Training = Client::understand(follow(client, created, &format!("training {name}")).await?)?;
        if let Some(adapter) = training.artifacts.first() {
            client.download(&adapter.url, &self.output.join(adapter_name()), true).await?;
        }
        Ok((name, training))
    }

    /// Every prompt twice with one seed. All generations are requested first, then downloaded in order.
    async fn generate(&self, client: &Client, lora: &str, asked: &RefCell<Vec<Job>>) -> Result<Vec<Made>, Failure> {
        let mut requested = Vec::new();
        for (index, thing) in (0_u32..).zip(THINGS) {
            let plain = json!({ "prompt": prompt(thing), "seed": FIRST_SEED + index });
            let mut styled = plain.clone();
            styled["loras"] = json!([{ "model": lora }]);
            let created: [Value; 2] =
                [client.post("/v1/generations", &plain).await?, client.post("/v1/generations", &styled).await?];
            for created in &created {
                asked.borrow_mut().push(Client::understand(created.clone())?);
            }
            requested.push((index, thing, created));
        }
        let total = 2 * requested.len();
        let mut all: Vec<Made> = Vec::new();
        for (index, thing, created) in requested {
            let mut artifacts = Vec::new();
            let mut images: Vec<RgbImage> = Vec::new();
            for (created, half) in created.into_iter().zip(HALVES) {
                let generation: Generation = Client::understand(
                    follow(client, created, &format!("picture {} of {total}", all.len() * 2 + images.len() + 1))
                        .await?,
                )?;
                let artifact = only_picture(&generation)?.clone();
                let file = self.output.join(picture_name(index, thing, half));
                client.download(&artifact.url, &file, true).await?;
                images.push(read_picture(&file)?);
                artifacts.push(artifact);
            }
            all.push(Made { prompt: prompt(thing), artifacts, images });
        }
        Ok(all)
    }

    fn write_sheet(&self, lora: &str, training: &[RgbImage], made: &[Made], training_seconds: f64) -> Outcome {
        let pairs: Vec<Pair> = made
            .iter()
            .filter_map(|made| {
                Some(Pair { prompt: made.prompt.clone(), pictures: made.images.clone().try_into().ok()? })
            })
            .collect();
        let sheet = ContactSheet {
            title: &format!("{}, without and with the LoRA “{lora}”", built_in::CHECKPOINT),
            subtitle: &format!(
                "{STEPS} steps at rank {RANK} in {training_seconds:.0} s on this machine; the same seed in each pair"
            ),
            training,
            halves: HALVES,
            pairs: &pairs,
        };
        let path = self.output.join(SHEET);
        sheet.draw()?.save(&path).with_context(|| format!("could not write {}", path.display()))?;
        Ok(())
    }
}

/// A prompt and its two pictures.
struct Made {
    prompt: String,
    artifacts: Vec<Artifact>,
    images: Vec<RgbImage>,
}

/// What the next demo may remove: the user may have a LoRA of the same name.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Id of the training.
    training: uuid::Uuid,
}

impl Record {
    /// Of the answer to the creation of a training.
    fn of(created: &Value) -> Result<Self, Failure> {
        Ok(Self { training: Client::understand(created["id"].clone())? })
    }

    /// `None` if there was no demo, or its record cannot be read.
    fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    fn write(&self, file: &Path) -> Outcome {
        write_private(file, self)
    }
}

/// Cancels the training of the demo in `record` if it was interrupted, and deletes its LoRA unless a job needs it.
async fn remove_earlier(client: &Client, record: &Path) -> Outcome {
    let Some(Record { training }) = Record::read(record) else { return Ok(()) };
    let address = format!("/v1/trainings/{training}");
    let Some(earlier) = client.find::<Value>(&address).await? else { return Ok(()) };
    let job: Job = Client::understand(earlier.clone())?;
    if !job.status.is_terminal() {
        client.act(&job.urls.cancel).await?;
        match follow(client, earlier, "canceling the training of an interrupted demo").await {
            Ok(_) | Err(Failure::Canceled(_) | Failure::Failed(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    let ended: Value = client.get(&address).await?;
    let Some(lora) = ended["output_model"]["id"].as_str() else { return Ok(()) };
    match client.delete(&format!("/v1/models/{lora}")).await {
        Ok(()) | Err(Failure::Refused(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// The names of all models, and those that unfinished trainings will give.
async fn taken_names(client: &Client) -> Result<Vec<String>, Failure> {
    let mut taken = client.list("/v1/models").await?;
    let trainings = client.list("/v1/trainings").await?;
    taken.extend(
        trainings.into_iter().filter(|training| matches!(training["status"].as_str(), Some("queued" | "running"))),
    );
    Ok(taken.iter().filter_map(|named| named["name"].as_str().map(str::to_owned)).collect())
}

fn read_picture(file: &Path) -> Result<RgbImage, Failure> {
    Ok(image::open(file).with_context(|| format!("{} is not a picture", file.display()))?.to_rgb8())
}

/// Cancels the jobs that have not ended: the next `up` would run them. Waits for the worker to let go of them.
async fn cancel(client: &Client, jobs: Vec<Job>) {
    let mut ending = Vec::new();
    for job in jobs {
        match client.act(&job.urls.cancel).await.and_then(Client::understand::<Job>) {
            Ok(now) if now.status.is_terminal() => {}
            _ => ending.push(job),
        }
    }
    let started = Instant::now();
    while let Some(job) = ending.last() {
        match client.get::<Job>(&job.urls.this).await {
            Ok(now) if now.status.is_terminal() => drop(ending.pop()),
            _ if started.elapsed() > CANCELING => {
                tell!(
                    "The next `pyrograph up` continues {} jobs of the demo; see `pyrograph jobs list`.",
                    ending.len()
                );
                return;
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn interrupted() -> Failure {
    Failure::Canceled("the demo was interrupted".to_owned())
}

/// All files that the demo writes, relative to the output folder.
fn file_names() -> Vec<PathBuf> {
    let mut names = vec![PathBuf::from(SHEET), PathBuf::from(adapter_name())];
    for picture in built_in::dataset(STYLE) {
        let path = Path::new(DATASET_FOLDER).join(picture.file_name);
        names.extend([path.with_extension("txt"), path]);
    }
    for (index, thing) in (0..).zip(THINGS) {
        names.extend(HALVES.map(|half| picture_name(index, thing, half).into()));
    }
    names
}

fn adapter_name() -> String {
    format!("{STYLE}.safetensors")
}

fn picture_name(index: u32, thing: &str, half: &str) -> String {
    format!("{index:02}-{}-{half}.png", slug(thing))
}

/// Words as part of a file name.
fn slug(words: &str) -> String {
    let words: Vec<String> = words
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_demo_wrote_is_not_replaced() {
        for name in ["contact-sheet.png", "pyrography.safetensors", "01-rocket-with.png", "dataset/01.txt"] {
            let folder = tempfile::tempdir().unwrap();
            let bundled = &built_in::dataset(STYLE)[0].file_name;
            let name = name.replace("01.txt", &bundled.replace(".png", ".txt"));
            let demo = |overwrite| Demo {
                data_dir: folder.path().join("data"),
                output: folder.path().to_owned(),
                overwrite,
                device: DeviceChoice::Auto,
            };
            let file = folder.path().join(&name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(folder.path().join("notes.txt"), "of no matter").unwrap();
            std::fs::write(&file, "the user's").unwrap();
            let Err(Failure::Usage(why)) = demo(false).claim_output() else { panic!("{name} is replaced") };
            assert!(why.contains(file.to_str().unwrap()) && why.contains("--overwrite"), "{why}");
            std::fs::remove_file(&file).unwrap();
            demo(false).claim_output().unwrap();
            std::fs::write(&file, "a demo's").unwrap();
            demo(false).claim_output().unwrap();
            std::fs::remove_file(folder.path().join(MARK)).unwrap();
            assert!(demo(false).claim_output().is_err());
            demo(true).claim_output().unwrap();
        }
    }

    #[test]
    fn prompts_become_file_names() {
        assert_eq!(slug("two cherries, Blue background"), "two-cherries-blue-background");
    }

    #[test]
    fn the_bundled_pictures_are_there_and_show_other_things() {
        let bundled = built_in::dataset(STYLE);
        assert!((8..=16).contains(&bundled.len()), "{} pictures", bundled.len());
        for picture in &bundled {
            assert!(picture.caption.contains(STYLE), "{}: {}", picture.file_name, picture.caption);
            assert!(THINGS.iter().all(|thing| prompt(thing) != picture.caption), "{} was trained on", picture.caption);
        }
    }
}
