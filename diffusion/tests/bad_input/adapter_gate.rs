//! The server's gate and the engine read an adapter by one rule: what the gate accepts can be loaded, with the same
//! warnings, and what the gate refuses is refused by the engine for the same reason.

use std::path::{Path, PathBuf};

use diffusion::LoraFile;
use formats::adapter::{CONFIG_FILE, Inspection, inspect};
use formats::{Header, Sniffer};
use tempfile::TempDir;

use crate::golden;

/// A tensor: name, data type, shape.
type Entry<'a> = (&'a str, &'a str, &'a [usize]);

const Q: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

/// A file whose tensors have the same small value everywhere.
fn file(tensors: &[(String, String, Vec<usize>)], metadata: &[(String, String)]) -> Vec<u8> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let header: Vec<String> = metadata.iter().map(|(key, text)| format!("{}:{}", quoted(key), quoted(text))).collect();
    let (mut entries, mut data) = (vec![format!(r#""__metadata__":{{{}}}"#, header.join(","))], Vec::new());
    for (name, kind, shape) in tensors {
        let value: &[u8] = match kind.as_str() {
            "F64" => &0.5f64.to_le_bytes(),
            "F32" => &0.5f32.to_le_bytes(),
            "F16" => &[0x00, 0x38],
            "BF16" => &[0x00, 0x3f],
            "F8_E4M3" => &[0x30],
            "I64" => &1i64.to_le_bytes(),
            "I32" => &1i32.to_le_bytes(),
            "I16" | "U16" => &[1, 0],
            _ => &[1],
        };
        let from = data.len();
        data.extend(value.repeat(shape.iter().product()));
        entries.push(format!(
            r#"{}:{{"dtype":"{kind}","shape":{shape:?},"data_offsets":[{from},{}]}}"#,
            quoted(name),
            data.len()
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

fn gate(bytes: &[u8], config: Option<&str>) -> Result<Inspection, String> {
    let mut sniffer = Sniffer::default();
    sniffer.push(bytes).map_err(|refusal| refusal.to_string())?;
    let header: Header = sniffer.finish(bytes.len() as u64).map_err(|refusal| refusal.to_string())?;
    inspect(&header, config)
}

/// Asserts that both agree; the warnings of a file that is accepted, or why it is refused.
fn agreed(what: &str, path: &Path, config: Option<&str>) -> Result<Vec<String>, String> {
    let gate = gate(&std::fs::read(path).unwrap(), config);
    match (gate, LoraFile::open_as(path, "ink")) {
        (Ok(about), Ok(file)) => {
            assert_eq!(about.warnings, file.warnings(), "{what}");
            Ok(about.warnings)
        }
        (Err(reason), Err(error)) => {
            assert_eq!(error.to_string(), format!("ink: {reason}"), "{what}");
            Err(reason)
        }
        (gate, engine) => panic!("{what}: the gate says {gate:?}, the engine {:?}", engine.map(|_| "fine")),
    }
}

struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("adapter.safetensors")
    }

    fn agreed(&self, what: &str, tensors: &[Entry]) -> Result<Vec<String>, String> {
        self.agreed_with(what, tensors, &[], None)
    }

    fn agreed_with(
        &self,
        what: &str,
        tensors: &[Entry],
        metadata: &[(&str, &str)],
        config: Option<&str>,
    ) -> Result<Vec<String>, String> {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, kind, shape)| ((*name).to_owned(), (*kind).to_owned(), shape.to_vec()))
            .collect();
        let metadata: Vec<_> = metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        std::fs::write(self.path(), file(&tensors, &metadata)).unwrap();
        let beside = self.path().with_file_name(CONFIG_FILE);
        match config {
            Some(config) => std::fs::write(beside, config).unwrap(),
            None => drop(std::fs::remove_file(beside)),
        }
        agreed(what, &self.path(), config)
    }
}

fn name(part: &str) -> String {
    format!("{Q}.{part}")
}

/// A pair of factors and, if there is one, an alpha of this data type.
fn pair(alpha: Option<&str>) -> Vec<(String, String, Vec<usize>)> {
    let mut tensors = vec![
        (name("lora_down.weight"), "F32".to_owned(), vec![4, 10]),
        (name("lora_up.weight"), "F32".to_owned(), vec![10, 4]),
    ];
    tensors.extend(alpha.map(|kind| (name("alpha"), kind.to_owned(), vec![])));
    tensors
}

#[test]
fn every_committed_adapter_is_loaded_as_the_gate_describes_it() {
    let mut count = 0;
    for folder in ["lora", "lora-dialects", "lora-export", "lora-pictures", "stable-diffusion-lora"] {
        let mut folders = vec![golden(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else if entry.extension().is_some_and(|end| end == "safetensors")
                    && !entry.ends_with("reference.safetensors")
                {
                    let said = agreed(&entry.display().to_string(), &entry, None);
                    said.unwrap_or_else(|reason| panic!("{}: {reason}", entry.display()));
                    count += 1;
                }
            }
        }
    }
    assert!(count > 40, "{count}");
}

/// The lists of keys that fuzzing found, and those of checkpoints, which are no adapters.
#[test]
fn lists_of_keys_are_judged_alike() {
    let case = Case::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut taken, mut refused) = (0, 0);
    for (folder, separator) in [(root.join("../fuzz/corpus/lora_keys"), " "), (golden("keys"), "x")] {
        for list in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let text = String::from_utf8_lossy(&std::fs::read(&list).unwrap()).into_owned();
            let (mut metadata, mut tensors) = (Vec::new(), Vec::new());
            for line in text.lines().take(200) {
                if let Some((key, value)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) {
                    metadata.push((key.to_owned(), value.to_owned()));
                    continue;
                }
                let (name, sides) = line.split_once(' ').unwrap_or((line, ""));
                let sides = sides.split(separator).filter(|side| !side.is_empty() && *side != "-");
                let shape: Vec<usize> = sides.take(4).map(|side| side.parse().unwrap_or(1).min(24)).collect();
                tensors.push((name.to_owned(), "F32".to_owned(), shape));
            }
            std::fs::write(case.path(), file(&tensors, &metadata)).unwrap();
            match agreed(&list.display().to_string(), &case.path(), None) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(taken > 40 && refused > 30, "{taken} taken, {refused} refused");
}

#[test]
fn factors_that_do_not_belong_together_are_refused_by_the_name_of_their_module() {
    let case = Case::new();
    let f = "F32";
    let flux = "lora_unet_double_blocks_0_img_attn_qkv";
    let fused = |part: &str| format!("{flux}.{part}");
    let lone = [(name("lora_A.weight"), [1, 4000])];
    let reason = case.agreed("one factor", &[(&lone[0].0, f, &lone[0].1)]).unwrap_err();
    assert!(reason.starts_with(&format!("{Q}: it has lora_A.weight, and its factor Up is missing")), "{reason}");
    let down = (&*name("lora_down.weight"), f, &[4, 10][..]);
    let up = (&*name("lora_up.weight"), f, &[10, 4][..]);
    let part = |part: &str| name(part);
    let (w1a, w1b, w2a, w2b) = (part("hada_w1_a"), part("hada_w1_b"), part("hada_w2_a"), part("hada_w2_b"));
    let (t1, k1, k2, k2a, k2b) =
        (part("hada_t1"), part("lokr_w1"), part("lokr_w2"), part("lokr_w2_a"), part("lokr_w2_b"));
    let (mid, diff, scale, bias, alpha) =
        (part("lora_mid.weight"), part("diff"), part("dora_scale"), part("diff_b"), part("alpha"));
    let (fused_down, fused_up) = (fused("lora_down.weight"), fused("lora_up.weight"));
    let norm = "lora_unet_mid_block_attentions_0_norm";
    let (norm_diff, norm_down) = (format!("{norm}.diff"), format!("{norm}.lora_down.weight"));
    let cases: &[(&str, &[Entry])] = &[
        ("the other factor", &[up]),
        ("other ranks", &[down, (up.0, f, &[10, 5])]),
        ("a factor of three dimensions", &[(down.0, f, &[4, 10, 1]), up]),
        ("a scalar as a factor", &[(down.0, f, &[]), up]),
        ("an empty factor", &[(down.0, f, &[0, 10]), (up.0, f, &[10, 0])]),
        ("a rank of 513", &[(down.0, f, &[513, 10]), (up.0, f, &[10, 513])]),
        ("a core alone", &[(&mid, f, &[4, 4, 3, 3])]),
        ("a core of another rank", &[down, (&mid, f, &[5, 5, 3, 3]), up]),
        ("an up factor with a kernel", &[down, (up.0, f, &[10, 4, 3, 3])]),
        ("three factors of LoHa", &[(&w1a, f, &[10, 4]), (&w1b, f, &[4, 10]), (&w2a, f, &[10, 4])]),
        ("LoHa of two sizes", &[(&w1a, f, &[10, 4]), (&w1b, f, &[4, 10]), (&w2a, f, &[11, 4]), (&w2b, f, &[4, 10])]),
        (
            "one core of LoHa",
            &[
                (&w1a, f, &[4, 10]),
                (&w1b, f, &[4, 10]),
                (&w2a, f, &[4, 10]),
                (&w2b, f, &[4, 10]),
                (&t1, f, &[4, 4, 3, 3]),
            ],
        ),
        ("one side of LoKr", &[(&k1, f, &[2, 2])]),
        ("half a side of LoKr", &[(&k1, f, &[2, 2]), (&k2a, f, &[5, 2])]),
        ("a side of LoKr of two ranks", &[(&k1, f, &[2, 2]), (&k2a, f, &[5, 2]), (&k2b, f, &[3, 5])]),
        ("a left side with a kernel", &[(&k1, f, &[2, 2, 3, 3]), (&k2, f, &[5, 5])]),
        ("two algorithms", &[down, up, (&diff, f, &[10, 10])]),
        ("a difference of one dimension", &[(&diff, f, &[10])]),
        ("magnitudes for other outputs", &[down, up, (&scale, f, &[10, 3])]),
        ("magnitudes for other inputs", &[down, up, (&scale, f, &[1, 7])]),
        ("a bias for other outputs", &[down, up, (&bias, f, &[9])]),
        ("a bias that is a matrix", &[(&bias, f, &[5, 2])]),
        ("an alpha of two numbers", &[down, up, (&alpha, f, &[2])]),
        ("an alpha that is a flag", &[down, up, (&alpha, "BOOL", &[])]),
        ("factors of whole numbers", &[(down.0, "I32", down.2), up]),
        ("outputs that cannot be shared", &[(&fused_down, f, &[4, 10]), (&fused_up, f, &[10, 4])]),
        ("one part twice", &[down, up, (&name("lora_A.weight"), f, &[4, 10])]),
        ("a difference of a norm that is a matrix", &[(&norm_diff, f, &[10, 10])]),
        ("a factor of a norm", &[(&norm_down, f, &[4, 10])]),
    ];
    for (what, tensors) in cases {
        let reason = case.agreed(what, tensors).expect_err(what);
        let module = [Q, flux, norm].into_iter().find(|module| reason.starts_with(&format!("{module}: ")));
        assert!(module.is_some(), "{what}: {reason}");
    }
    let reason = case.agreed("nothing but alpha", &[(&alpha, f, &[])]).unwrap_err();
    assert!(reason.contains("no factors"), "{reason}");
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let case = Case::new();
    let warned = |more: &[Entry]| {
        let whole = pair(Some("F32"));
        let whole: Vec<Entry> = whole.iter().map(|(name, kind, shape)| (&**name, &**kind, &**shape)).collect();
        case.agreed("more", &[&whole[..], more].concat()).unwrap()
    };
    assert_eq!(warned(&[]), Vec::<String>::new());
    let gone = "lora_te_text_model_encoder_layers_0_mlp_fc1";
    for part in ["alpha", "dora_scale"] {
        let warnings = warned(&[(&format!("{gone}.{part}"), "F32", &[1])]);
        assert_eq!(warnings, [format!("alpha or magnitudes without factors have no effect: {gone}")]);
    }
    for unknown in [
        "bundle_emb.embroidery.clip_l",
        "bundle_emb.ema yasuhara.clip_g",
        "bundle_emb.安原絵麻.string_to_param.*",
        "diffusion_model.double_blocks.0.img_attn.qkv.comfy_quant",
        "scaled_fp8",
    ] {
        let warnings = warned(&[(unknown, "U8", &[2])]);
        assert_eq!(warnings, [format!("unknown layers or tensors have no effect: {unknown}")]);
    }
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|letter| (letter, "F32", &[1][..]));
    assert_eq!(warned(&[a, b, c, d]), ["unknown layers or tensors have no effect: a, b, c and 1 more"]);
    assert_eq!(warned(&[("v_pred", "F32", &[0])]), ["unknown layers or tensors have no effect: v_pred"]);
}

#[test]
fn an_alpha_that_is_nowhere_is_a_warning() {
    let case = Case::new();
    let whole = pair(None);
    let whole: Vec<Entry> = whole.iter().map(|(name, kind, shape)| (&**name, &**kind, &**shape)).collect();
    let guess = ["alpha is not in the file; taken as the rank"];
    assert_eq!(case.agreed("no alpha", &whole).unwrap(), guess);
    assert_eq!(case.agreed_with("an alpha of no number", &whole, &[("alpha", "auto")], None).unwrap(), guess);
    let none: [&str; 0] = [];
    assert_eq!(case.agreed_with("in the header", &whole, &[("lora_alpha", "1")], None).unwrap(), none);
    assert_eq!(case.agreed_with("beside", &whole, &[], Some(r#"{"lora_alpha": 16}"#)).unwrap(), none);
    let other = "lora_te_text_model_encoder_layers_0_mlp_fc1";
    let [other_down, other_up, other_alpha] =
        ["lora_down.weight", "lora_up.weight", "alpha"].map(|part| format!("{other}.{part}"));
    let more = [(&*other_down, "F32", &[4, 12][..]), (&other_up, "F32", &[48, 4]), (&other_alpha, "F32", &[])];
    let warnings = case.agreed("an alpha of some", &[&whole[..], &more].concat()).unwrap();
    assert_eq!(warnings, [format!("alpha of {Q} is not in the file; taken as the rank")]);
    let dora = r#"{"lora_alpha": 16, "use_dora": true, "alpha_pattern": {"(": 1}}"#;
    let warnings = case.agreed_with("a config that does not fit", &whole, &[], Some(dora)).unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("`(` cannot be read")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("no magnitudes")), "{warnings:?}");
    for broken in ["{", "[1]x"] {
        let reason = case.agreed_with("a broken config", &whole, &[], Some(broken)).unwrap_err();
        assert!(reason.contains(CONFIG_FILE), "{reason}");
    }
    let reason = case.agreed_with("an infinite alpha", &whole, &[("ss_network_alpha", "inf")], None).unwrap_err();
    assert!(reason.contains("its alpha is not finite"), "{reason}");
}

#[test]
fn every_type_of_number_is_read() {
    let case = Case::new();
    for kind in ["F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "I16", "I8", "U16", "U8"] {
        let tensors = pair(Some(kind));
        let tensors: Vec<Entry> = tensors.iter().map(|(name, kind, shape)| (&**name, &**kind, &**shape)).collect();
        assert_eq!(case.agreed(kind, &tensors).unwrap(), Vec::<String>::new(), "alpha as {kind}");
    }
    for kind in ["F64", "F32", "F16", "BF16", "F8_E4M3"] {
        let [down, up] = ["lora_A.weight", "lora_B.weight"].map(name);
        case.agreed(kind, &[(&down, kind, &[4, 10]), (&up, "F32", &[10, 4])]).unwrap();
    }
}
