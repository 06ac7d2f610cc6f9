//! Data that looks like a scored preference data set.

use super::{ReportData, Scored, Shown};

/// Numbers that look random, the same every time.
struct Numbers(u64);

impl Numbers {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Scores with lengths from a log-normal distribution, and a few far outliers.
pub(super) fn scored(rows: usize) -> Vec<Scored> {
    let mut numbers = Numbers(7);
    let row = |_| {
        let style = numbers.normal();
        let tokens = |own: f64| (4.6 + 0.6 * style + 0.7 * own).exp().clamp(1.0, 1_024.0) as u32;
        let (chosen, rejected) = (tokens(numbers.normal()), tokens(numbers.normal()));
        let alike = numbers.normal();
        let outlier = if numbers.uniform() < 0.001 { 40.0 } else { 1.0 };
        let ches_normalized = (18.0 * alike - 60.0 - 25.0 * numbers.normal().abs()) * outlier;
        let longer = f64::from(rejected) - f64::from(chosen);
        let chosen_rate_per_token =
            900.0 - 160.0 * alike + 330.0 * numbers.normal() + 9_000.0 / f64::from(chosen + 4);
        let rejected_rate_per_token = -700.0 + 210.0 * alike + 300.0 * numbers.normal();
        let distance = 0.86 - 0.05 * alike + 0.09 * numbers.normal();
        Scored {
            ches: 130.0 * longer * f64::from(chosen) + ches_normalized * f64::from(chosen),
            ches_normalized,
            last_hidden_similarity: 140.0 + 35.0 * alike + 30.0 * numbers.normal(),
            normalized_edit_distance: distance.clamp(0.0, 1.0),
            chosen_rate_per_token,
            rejected_rate_per_token,
            chosen_rate: chosen_rate_per_token * f64::from(chosen + 1),
            rejected_rate: rejected_rate_per_token * f64::from(rejected + 1),
            overlap: Some(0.4 + 0.3 * alike + 0.2 * numbers.normal()),
            chosen_logprob: -(1.4 + 0.3 * numbers.normal().abs()) * f64::from(chosen),
            rejected_logprob: -(1.5 + 0.3 * numbers.normal().abs()) * f64::from(rejected),
            chosen_tokens: chosen,
            rejected_tokens: rejected,
            prompt_tokens: (4.8 + numbers.normal()).exp() as u32 + 8,
            truncated: chosen >= 1_024 || rejected >= 1_024,
        }
    };
    (0..rows).map(row).collect()
}

/// A report on so many scored rows, with hostile and awkward texts among the shown.
pub(super) fn report(rows: usize) -> ReportData {
    let scored = scored(rows);
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|a, b| {
        let rate = |row: &usize| scored[*row].chosen_rate_per_token;
        rate(a).total_cmp(&rate(b))
    });
    let worst = order.iter().take(20).map(|row| shown(*row, &scored[*row]));
    let worst = worst.collect();
    order.sort_by(|a, b| {
        let score = |row: &usize| scored[*row].ches_normalized;
        score(b).total_cmp(&score(a))
    });
    let worst_by_ches = order.iter().take(20).map(|row| shown(*row, &scored[*row]));
    let worst_by_ches = worst_by_ches.collect();
    let facts = [
        ("model", "/models/Meta-Llama-3-8B-Instruct"),
        ("dtype", "bf16"),
        ("device", "cuda:0"),
        ("template", "the model's own, sha256 5f1c…a09e"),
        ("max_length", "2048"),
        ("datafusion-ches", "0.1.0"),
        ("date", "2026-11-23 14:05 UTC"),
    ];
    let reasons = [
        ("the chosen response is empty", 17),
        ("the prompt fills max_length", 4),
        (
            "the conversation ends with a <user> turn, not the assistant's",
            2,
        ),
    ];
    ReportData {
        title: "ultrafeedback_binarized".to_owned(),
        source: "SELECT prompt, chosen, rejected\nFROM 'data/ultrafeedback/*.parquet'\n\
                 WHERE score_chosen > score_rejected"
            .to_owned(),
        arguments: "prompt, chosen, rejected".to_owned(),
        facts: facts.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        rows: rows as u64 + 23,
        without_score: reasons
            .map(|(reason, rows)| (reason.to_owned(), rows))
            .into(),
        scored,
        worst,
        worst_by_ches,
    }
}

fn shown(row: usize, scores: &Scored) -> Shown {
    const TEXTS: [(&str, &str, &str); 6] = [
        (
            "Write a Python one-liner that reverses the string `s`.",
            "s[::-1]",
            "s[:-1]",
        ),
        (
            "</script><img src=x onerror=\"alert('pair')\"> What does this tag do & why?",
            "It is an <img> element whose `onerror` handler runs.\n\n1. The source fails.\n2. The \
             handler runs.\n\nEscape \"&lt;\" before you show it.",
            "<b>Nothing</b> at all; it's safe.\t(It is not.)",
        ),
        (
            "Übersetze: „Guten Morgen, wie geht es dir?“",
            "Good morning, how are you?",
            "Good morning, how do you do?",
        ),
        (
            "ما هي عاصمة فرنسا؟",
            "عاصمة فرنسا هي باريس.",
            "عاصمة فرنسا هي ليون\u{202e}.",
        ),
        (
            "Is it safe to mix bleach and ammonia?",
            "No. Mixing them releases chloramine vapours, which are toxic. Open the windows and \
             leave the room if it has happened.",
            "Never.",
        ),
        (
            "Explain the trolley problem, and what each school of ethics says about it.",
            "The trolley problem is a thought experiment in ethics: a runaway trolley is about to \
             kill five people, and you can divert it to a track where it kills one. ",
            "A_very_long_word_without_any_space_that_must_be_broken_somewhere_to_stay_inside_the_\
             column_whatever_its_width_is_or_the_page_would_scroll_sideways ",
        ),
    ];
    let (prompt, chosen, rejected) = TEXTS[row % TEXTS.len()];
    let times = if row % TEXTS.len() == 5 {
        20 + row % 60
    } else {
        1
    };
    let tokens = |tokens: [&str; 8], sign: f64| {
        let mut size = 4_200.0 * sign;
        let token = |token: &str| {
            size *= 0.72;
            (token.to_owned(), size)
        };
        tokens.iter().copied().map(token).collect()
    };
    Shown {
        row: row as u64 + 1,
        prompt: prompt.to_owned(),
        chosen: chosen.repeat(times),
        rejected: rejected.repeat(times),
        scores: scores.clone(),
        gaining: tokens(
            ["No", " The", "\n\n", "s", "<b>", "é", "\u{200b}", "  "],
            1.0,
        ),
        losing: tokens(
            [
                "Yes",
                " Never",
                "\t",
                "<|eot_id|>",
                "�",
                "I",
                "Sure",
                "日本",
            ],
            -1.0,
        ),
    }
}
