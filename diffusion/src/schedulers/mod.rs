//! Schedulers: which noise levels a sampler visits, and the step from one to the next. One algorithm a file.
//! They know nothing of prompts or pictures.

pub mod flow_match_euler;
