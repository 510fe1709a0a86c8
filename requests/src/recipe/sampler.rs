//! Names of samplers and noise schedules in other programs.

use formats::Scheduler;

/// Names in ComfyUI and InvokeAI that are not names of ours as well.
const OTHER_NAMES: [(&str, Scheduler); 12] = [
    ("dpmpp_2m_sde_gpu", Scheduler::Dpmpp2mSde),
    ("dpmpp_2m_sde_gpu_karras", Scheduler::Dpmpp2mSdeKarras),
    ("uni_pc", Scheduler::Unipc),
    ("uni_pc_bh2", Scheduler::Unipc),
    ("euler_a", Scheduler::EulerAncestral),
    ("k_euler", Scheduler::Euler),
    ("k_euler_a", Scheduler::EulerAncestral),
    ("dpmpp_2m_k", Scheduler::Dpmpp2mKarras),
    ("dpmpp_2m_sde_k", Scheduler::Dpmpp2mSdeKarras),
    ("k_dpmpp_2m", Scheduler::Dpmpp2m),
    ("plms", Scheduler::Pndm),
    ("ddim_uniform", Scheduler::Ddim),
];
/// Schedules that are those of the model, or nearly.
const USUAL: [&str; 6] = ["automatic", "uniform", "normal", "simple", "ddim", "ddim_uniform"];
/// A1111's samplers that run with Karras' schedule unless another one is chosen.
const AUTOMATIC_KARRAS: [Scheduler; 1] = [Scheduler::Dpmpp2m];

/// The scheduler that a sampler with a schedule means, and a sentence about the schedule if it is another one.
/// Errors: a sentence.
pub(super) fn scheduler(sampler: &str, schedule: Option<&str>) -> Result<(Scheduler, Option<String>), String> {
    let schedule = schedule.map(str::trim).filter(|schedule| !schedule.is_empty());
    if let Some(schedule) = schedule
        && let Some(both) = [" ", "_"].iter().find_map(|glue| named(&format!("{sampler}{glue}{schedule}")))
    {
        return Ok((both, None));
    }
    let found = named(sampler).ok_or_else(|| format!("There is no scheduler `{sampler}`."))?;
    let Some(schedule) = schedule else { return Ok((found, None)) };
    let lower = schedule.to_ascii_lowercase();
    if lower == "automatic" && AUTOMATIC_KARRAS.contains(&found) {
        return Ok((named(&format!("{} Karras", found.title())).unwrap_or(found), None));
    }
    let other = format!("There is no noise schedule `{schedule}` for this sampler; the model's is used.");
    Ok((found, (!USUAL.contains(&lower.as_str())).then_some(other)))
}

fn named(name: &str) -> Option<Scheduler> {
    let name = name.trim();
    let other = || OTHER_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, found)| *found);
    name.parse().ok().or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_of_other_programs() {
        for (sampler, schedule, expected) in [
            ("Euler a", None, Scheduler::EulerAncestral),
            ("DPM++ 2M Karras", None, Scheduler::Dpmpp2mKarras),
            ("DPM++ 2M", None, Scheduler::Dpmpp2m),
            ("DPM++ 2M", Some("Karras"), Scheduler::Dpmpp2mKarras),
            ("DPM++ 2M", Some("Automatic"), Scheduler::Dpmpp2mKarras),
            ("DPM++ 2M SDE", Some("Karras"), Scheduler::Dpmpp2mSdeKarras),
            ("dpmpp_2m", Some("karras"), Scheduler::Dpmpp2mKarras),
            ("dpmpp_2m_sde_gpu", Some("karras"), Scheduler::Dpmpp2mSdeKarras),
            ("euler", Some("simple"), Scheduler::Euler),
            ("k_euler_a", None, Scheduler::EulerAncestral),
            ("dpmpp_2m_k", None, Scheduler::Dpmpp2mKarras),
        ] {
            assert_eq!(scheduler(sampler, schedule), Ok((expected, None)), "{sampler} {schedule:?}");
        }
        let (euler, other) = scheduler("Euler", Some("Exponential")).unwrap();
        assert_eq!(euler, Scheduler::Euler);
        assert!(other.unwrap().contains("`Exponential`"));
        assert!(scheduler("Heun", None).unwrap_err().contains("`Heun`"));
    }
}
