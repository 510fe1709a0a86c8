//! ComfyUI's record: the graph of nodes that was run, as JSON in `prompt`; or, where only that was kept, the graph of
//! the editor in `workflow`. Followed are the inputs of the first sampler; nodes beside its path have other outputs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Found, NamedLora, NamedModel, Program, Settings, Unmapped, sampler};

/// Most nodes of a graph that is read.
const MOST_NODES: usize = 10_000;
/// Most nodes whose texts make one prompt.
const MOST_LINKED_TEXTS: usize = 100;
const SAMPLERS: [&str; 3] = ["KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced"];
/// Nodes whose settings are read below, and nodes that change nothing.
const KNOWN: [&str; 30] = [
    "KSampler",
    "KSamplerAdvanced",
    "SamplerCustomAdvanced",
    "BasicGuider",
    "CFGGuider",
    "BasicScheduler",
    "KSamplerSelect",
    "RandomNoise",
    "CLIPTextEncode",
    "CLIPTextEncodeFlux",
    "FluxGuidance",
    "ConditioningZeroOut",
    "CLIPSetLastLayer",
    "LoraLoader",
    "LoraLoaderModelOnly",
    "CheckpointLoaderSimple",
    "CheckpointLoader",
    "UNETLoader",
    "UnetLoaderGGUF",
    "DualCLIPLoader",
    "DualCLIPLoaderGGUF",
    "CLIPLoader",
    "VAELoader",
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "VAEDecode",
    "VAEDecodeTiled",
    "SaveImage",
    "PreviewImage",
    "Note",
];
/// The widgets of nodes in the editor's graph, in their order. Empty names are controls of the editor.
const WIDGETS: [(&str, &[&str]); 18] = [
    ("KSampler", &["seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"]),
    ("KSamplerAdvanced", &["", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"]),
    ("BasicScheduler", &["scheduler", "steps", "denoise"]),
    ("KSamplerSelect", &["sampler_name"]),
    ("RandomNoise", &["noise_seed", ""]),
    ("CFGGuider", &["cfg"]),
    ("CLIPTextEncode", &["text"]),
    ("StringConcatenate", &["string_a", "string_b", "delimiter"]),
    ("CLIPTextEncodeFlux", &["clip_l", "t5xxl", "guidance"]),
    ("FluxGuidance", &["guidance"]),
    ("CLIPSetLastLayer", &["stop_at_clip_layer"]),
    ("LoraLoader", &["lora_name", "strength_model", "strength_clip"]),
    ("LoraLoaderModelOnly", &["lora_name", "strength_model"]),
    ("CheckpointLoaderSimple", &["ckpt_name"]),
    ("UNETLoader", &["unet_name", "weight_dtype"]),
    ("UnetLoaderGGUF", &["unet_name"]),
    ("EmptyLatentImage", &["width", "height", "batch_size"]),
    ("EmptySD3LatentImage", &["width", "height", "batch_size"]),
];

/// Reads the graph that was run. Errors: a sentence.
pub(super) fn read(text: &str) -> Result<Found, String> {
    let nodes: BTreeMap<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("It is not a graph of nodes: {error}."))?;
    Graph::new(nodes)?.found()
}

/// Reads the editor's graph. Errors: a sentence.
pub(super) fn read_workflow(text: &str) -> Result<Found, String> {
    let workflow: Value = serde_json::from_str(text).map_err(|error| format!("It is not JSON: {error}."))?;
    let list = |name: &str| workflow[name].as_array().cloned().unwrap_or_default();
    // A link: its number, and node and output that it comes from.
    let links: BTreeMap<u64, Value> = list("links")
        .iter()
        .filter_map(|link| Some((link[0].as_u64()?, json!([link[1].to_string(), link[2]]))))
        .collect();
    let mut nodes = BTreeMap::new();
    for node in list("nodes").iter().take(MOST_NODES) {
        let class = node["type"].as_str().unwrap_or_default();
        let mut inputs = Map::new();
        let names = WIDGETS.iter().find(|(known, _)| *known == class).map_or(&[][..], |(_, names)| names);
        let values = node["widgets_values"].as_array().map_or(&[][..], Vec::as_slice);
        inputs.extend(names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.clone())));
        for input in node["inputs"].as_array().map_or(&[][..], Vec::as_slice) {
            if let (Some(name), Some(link)) =
                (input["name"].as_str(), input["link"].as_u64().and_then(|n| links.get(&n)))
            {
                inputs.insert(name.to_owned(), link.clone());
            }
        }
        nodes.insert(node["id"].to_string(), json!({"class_type": class, "inputs": inputs}));
    }
    Graph::new(nodes)?.found()
}

struct Graph {
    nodes: BTreeMap<String, Value>,
    /// Nodes of any class whose text is part of a prompt.
    texts: BTreeSet<String>,
    unmapped: Vec<Unmapped>,
}

impl Graph {
    fn new(nodes: BTreeMap<String, Value>) -> Result<Self, String> {
        if nodes.len() > MOST_NODES {
            return Err(format!("It has {} nodes; at most {MOST_NODES} are read.", nodes.len()));
        }
        Ok(Self { nodes, texts: BTreeSet::new(), unmapped: Vec::new() })
    }

    fn class(&self, node: &str) -> &str {
        self.nodes.get(node).and_then(|node| node["class_type"].as_str()).unwrap_or_default()
    }

    /// The value of an input that is not connected.
    fn value(&self, node: &str, input: &str) -> Option<&Value> {
        self.nodes.get(node)?["inputs"].get(input).filter(|value| !value.is_array() && !value.is_null())
    }

    fn number(&self, node: &str, input: &str) -> Option<f64> {
        self.value(node, input)?.as_f64()
    }

    fn text(&self, node: &str, input: &str) -> Option<String> {
        self.value(node, input)?.as_str().map(str::to_owned)
    }

    /// The node that an input is connected to.
    fn source(&self, node: &str, input: &str) -> Option<String> {
        let source = &self.nodes.get(node)?["inputs"].get(input)?.as_array()?.first()?;
        Some(source.as_str().map_or_else(|| source.to_string(), str::to_owned))
    }

    /// The nodes from `start` along inputs of these names, `start` first, each once.
    fn along(&self, start: Option<String>, inputs: &[&str]) -> Vec<String> {
        let (mut path, mut seen) = (Vec::new(), BTreeSet::new());
        let mut next = start;
        while let Some(node) = next.filter(|node| self.nodes.contains_key(node) && seen.insert(node.clone())) {
            next = inputs.iter().find_map(|input| self.source(&node, input));
            path.push(node);
        }
        path
    }

    fn found(mut self) -> Result<Found, String> {
        let samplers: Vec<String> =
            self.nodes.keys().filter(|node| SAMPLERS.contains(&self.class(node))).cloned().collect();
        let sampler = samplers.first().ok_or("The graph has no sampler that is known here.")?.clone();
        for other in &samplers[1..] {
            let node = format!("node {other}");
            self.unmapped.push(Unmapped::new(self.class(other), node, "Only the first sampler is read."));
        }
        let settings = self.settings(&sampler);
        let mut strange: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in self.nodes.keys().filter(|node| !self.texts.contains(*node)) {
            let class = self.class(node);
            if !KNOWN.contains(&class) {
                strange.entry(class).or_default().push(node);
            }
        }
        let strange = strange.into_iter().map(|(class, nodes)| {
            let word = if nodes.len() == 1 { "node" } else { "nodes" };
            Unmapped::new(class, format!("{word} {}", nodes.join(", ")), "The node is not known here.")
        });
        let strange: Vec<Unmapped> = strange.collect();
        self.unmapped.extend(strange);
        Ok(Found { program: Some(Program::Comfyui), settings, unmapped: self.unmapped })
    }

    fn settings(&mut self, sampler: &str) -> Settings {
        // A custom sampler has its settings in separate nodes.
        let part = |input: &str| self.source(sampler, input).unwrap_or_else(|| sampler.to_owned());
        let [guider, sigmas, solver, noise] = ["guider", "sigmas", "sampler", "noise"].map(part);
        let positive = ["positive", "conditioning"].iter().find_map(|input| self.source(&guider, input));
        let positive = self.along(positive, &["conditioning", "positive"]);
        let negative = self.source(&guider, "negative");
        let has_negative = negative.is_some();
        let negative = self.along(negative, &["conditioning", "negative"]);
        let model = self.along(self.source(&guider, "model"), &["model"]);
        let latent = self.along(self.source(sampler, "latent_image"), &["samples", "pixels", "image"]);

        let prompt = self.encoded(&positive);
        let negative_prompt = self.negative(has_negative, &negative);

        let first = |path: &[String], input: &str| path.iter().find_map(|node| self.number(node, input));
        let clip = positive.iter().find_map(|node| self.source(node, "clip"));
        let clip_skip = first(&self.along(clip, &["clip"]), "stop_at_clip_layer");
        let stated = ["seed", "noise_seed"].iter().find_map(|input| self.value(&noise, input)).cloned();
        let seed = stated.as_ref().and_then(Value::as_u64);
        let strength = self.number(&sigmas, "denoise").filter(|strength| *strength < 1.0);
        let settings = Settings {
            prompt,
            negative_prompt,
            model: ["ckpt_name", "unet_name"]
                .iter()
                .find_map(|input| model.iter().find_map(|node| self.text(node, input)))
                .map(|name| NamedModel { name, sha256: None }),
            loras: model.iter().rev().filter_map(|node| self.lora(node)).collect(),
            num_inference_steps: self.number(&sigmas, "steps"),
            cfg_scale: self.number(&guider, "cfg"),
            distilled_scale: first(&positive, "guidance"),
            seed,
            width: first(&latent, "width"),
            height: first(&latent, "height"),
            // -1 is the last layer.
            clip_skip: clip_skip.map(|layer| -layer - 1.0).filter(|layers| *layers > 0.0),
            strength,
            ..Settings::default()
        };
        if let (Some(stated), None) = (stated, seed) {
            self.unmapped.push(Unmapped::new("seed", stated, "It is not a seed: an integer of at most 64 bits."));
        }
        let (name, schedule) = (self.text(&solver, "sampler_name"), self.text(&sigmas, "scheduler"));
        Settings { scheduler: self.scheduler(name, schedule), ..settings }
    }

    fn negative(&mut self, is_connected: bool, path: &[String]) -> Option<String> {
        // It has the shape of a prompt and no words.
        if path.iter().any(|node| self.class(node) == "ConditioningZeroOut") {
            return None;
        }
        let text = self.encoded(path);
        if is_connected && text.is_none() {
            self.unmapped.push(Unmapped::new("negative_prompt", "", "It could not be read."));
        }
        text.filter(|text| !text.is_empty())
    }

    /// The text of the first node on the way that encodes one.
    fn encoded(&mut self, path: &[String]) -> Option<String> {
        let (text, nodes) = path.iter().find_map(|node| {
            ["text", "t5xxl"].iter().find_map(|input| {
                let mut nodes = BTreeSet::new();
                self.text_of(node, input, &mut nodes).map(|text| (text, nodes))
            })
        })?;
        self.texts.extend(nodes);
        Some(text)
    }

    /// The text of an input, or of the nodes that it is connected to, which are added to `nodes`. Each is read once, so
    /// that a graph cannot multiply its texts.
    fn text_of(&self, node: &str, input: &str, nodes: &mut BTreeSet<String>) -> Option<String> {
        let Some(source) = self.source(node, input) else { return self.text(node, input) };
        if nodes.len() == MOST_LINKED_TEXTS || !nodes.insert(source.clone()) {
            return None;
        }
        if self.class(&source) == "StringConcatenate" {
            let [first, second] = ["string_a", "string_b"].map(|input| self.text_of(&source, input, nodes));
            let delimiter = self.text(&source, "delimiter").unwrap_or_default();
            return Some(format!("{}{delimiter}{}", first?, second?));
        }
        ["text", "string", "value", "prompt"].iter().find_map(|input| self.text_of(&source, input, nodes))
    }

    fn lora(&self, node: &str) -> Option<NamedLora> {
        let name = self.text(node, "lora_name")?;
        let scale = self.number(node, "strength_model").unwrap_or(1.0);
        let of_text = match self.class(node) {
            "LoraLoaderModelOnly" => Some(0.0),
            _ => self.number(node, "strength_clip"),
        };
        Some(NamedLora { name, sha256: None, scale, text_encoder_scale: of_text.filter(|other| *other != scale) })
    }

    fn scheduler(&mut self, name: Option<String>, schedule: Option<String>) -> Option<String> {
        let name = name?;
        match sampler::scheduler(&name, schedule.as_deref()) {
            Ok((scheduler, other)) => {
                let other = other.map(|reason| Unmapped::new("scheduler", schedule.unwrap_or_default(), reason));
                self.unmapped.extend(other);
                Some(scheduler.as_str().to_owned())
            }
            Err(reason) => {
                self.unmapped.push(Unmapped::new("sampler_name", name, reason));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Value {
        json!({
            "3": {"class_type": "KSampler", "inputs": {
                "seed": 156_680_208_700_286_u64, "steps": 20, "cfg": 8, "sampler_name": "dpmpp_2m",
                "scheduler": "karras", "denoise": 1, "model": ["11", 0], "positive": ["6", 0], "negative": ["7", 0],
                "latent_image": ["5", 0]}},
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/v1-5.safetensors"}},
            "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["9", 0]}},
            "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 0]}},
            "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
            "9": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["11", 1]}},
            "10": {"class_type": "LoraLoader", "inputs": {
                "lora_name": "a.safetensors", "strength_model": 0.8, "strength_clip": 0.5, "model": ["4", 0]}},
            "11": {"class_type": "LoraLoaderModelOnly", "inputs": {
                "lora_name": "b.safetensors", "strength_model": 1, "model": ["10", 0]}},
            "12": {"class_type": "ImageUpscale", "inputs": {"image": ["8", 0]}},
        })
    }

    #[test]
    fn a_graph_is_followed() {
        let Found { program, settings, unmapped } = read(&graph().to_string()).unwrap();
        assert_eq!(program, Some(Program::Comfyui));
        let lora = |name: &str, scale, text_encoder_scale| NamedLora {
            name: name.into(),
            sha256: None,
            scale,
            text_encoder_scale,
        };
        let expected = Settings {
            prompt: Some("a fox".into()),
            negative_prompt: Some("blurry".into()),
            model: Some(NamedModel { name: "sd/v1-5.safetensors".into(), sha256: None }),
            loras: vec![lora("a.safetensors", 0.8, Some(0.5)), lora("b.safetensors", 1.0, Some(0.0))],
            num_inference_steps: Some(20.0),
            cfg_scale: Some(8.0),
            seed: Some(156_680_208_700_286),
            scheduler: Some("dpmpp_2m_karras".into()),
            width: Some(512.0),
            height: Some(768.0),
            clip_skip: Some(1.0),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!(unmapped, [Unmapped::new("ImageUpscale", "node 12", "The node is not known here.")]);
    }

    #[test]
    fn the_texts_of_other_nodes_make_a_prompt() {
        let mut graph = graph();
        graph["6"]["inputs"]["text"] = json!(["20", 0]);
        graph["20"] = json!({"class_type": "StringConcatenate",
            "inputs": {"string_a": ["21", 0], "string_b": ["22", 0], "delimiter": ", "}});
        graph["21"] = json!({"class_type": "PrimitiveString", "inputs": {"value": "a fox"}});
        graph["22"] = json!({"class_type": "MyPromptMaker", "inputs": {"text": "in the snow"}});
        graph["23"] = json!({"class_type": "MyPromptMaker", "inputs": {"text": "unused"}});
        graph.as_object_mut().unwrap().remove("12");
        let found = read(&graph.to_string()).unwrap();
        assert_eq!(found.settings.prompt.as_deref(), Some("a fox, in the snow"));
        assert_eq!(found.unmapped, [Unmapped::new("MyPromptMaker", "node 23", "The node is not known here.")]);

        // One of the texts is missing, or the nodes are connected in a circle.
        for broken in [json!(["99", 0]), json!(["20", 0])] {
            graph["20"]["inputs"]["string_b"] = broken;
            assert_eq!(read(&graph.to_string()).unwrap().settings.prompt, None);
        }
        graph["7"]["inputs"]["text"] = json!(["99", 0]);
        let found = read(&graph.to_string()).unwrap();
        assert!(found.unmapped.contains(&Unmapped::new("negative_prompt", "", "It could not be read.")));
        graph["7"] = json!({"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}});
        assert_eq!(read(&graph.to_string()).unwrap().settings.negative_prompt, None);
    }

    #[test]
    fn a_custom_sampler_is_followed() {
        let graph = json!({
            "1": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["2", 0], "guider": ["3", 0],
                "sampler": ["4", 0], "sigmas": ["5", 0], "latent_image": ["6", 0]}},
            "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
            "3": {"class_type": "BasicGuider", "inputs": {"model": ["8", 0], "conditioning": ["7", 0]}},
            "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
            "5": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1}},
            "6": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024}},
            "7": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["9", 0]}},
            "8": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
            "9": {"class_type": "CLIPTextEncode", "inputs": {"text": "an owl", "clip": ["10", 0]}},
            "10": {"class_type": "DualCLIPLoader", "inputs": {}},
        });
        let Found { settings, unmapped, .. } = read(&graph.to_string()).unwrap();
        assert_eq!((settings.prompt.as_deref(), settings.seed), (Some("an owl"), Some(7)));
        assert_eq!((settings.distilled_scale, settings.num_inference_steps), (Some(3.5), Some(20.0)));
        assert_eq!((settings.scheduler.as_deref(), settings.width), (Some("euler"), Some(1024.0)));
        assert_eq!(settings.model.unwrap().name, "flux1-dev.safetensors");
        assert_eq!(unmapped, []);

        let odd = graph.to_string().replace("\"noise_seed\":7", "\"noise_seed\":1e20");
        let Found { settings, unmapped, .. } = read(&odd).unwrap();
        assert_eq!((settings.seed, unmapped[0].field.as_str()), (None, "seed"));
    }

    #[test]
    fn the_editors_graph_is_read_too() {
        let workflow = json!({
            "nodes": [
                {"id": 3, "type": "KSampler", "widgets_values": [5, "fixed", 20, 8, "euler", "normal", 1],
                 "inputs": [{"name": "positive", "link": 1}, {"name": "model", "link": 2}]},
                {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a fox"], "inputs": []},
                {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["one.safetensors"]},
            ],
            "links": [[1, 6, 0, 3, 1, "CONDITIONING"], [2, 4, 0, 3, 0, "MODEL"]],
        });
        let settings = read_workflow(&workflow.to_string()).unwrap().settings;
        assert_eq!(
            (settings.prompt.as_deref(), settings.seed, settings.cfg_scale),
            (Some("a fox"), Some(5), Some(8.0))
        );
        assert_eq!(settings.model.unwrap().name, "one.safetensors");
    }

    #[test]
    fn graphs_that_are_none() {
        for text in ["", "[]", "7", "{}", r#"{"1": 7}"#, r#"{"1": {"class_type": "LoadImage", "inputs": {}}}"#] {
            assert!(read(text).is_err(), "{text}");
            assert!(read_workflow(text).is_err(), "{text}");
        }
        // A circle, and connections to nowhere.
        let circle = r#"{"1": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "positive": ["9", 0]}},
                         "2": {"class_type": "LoraLoader", "inputs": {"model": ["2", 0], "lora_name": 5}}}"#;
        assert_eq!(read(circle).unwrap().settings.loras, []);
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
