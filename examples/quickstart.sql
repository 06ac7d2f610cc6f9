-- From preference pairs to a filtered training set. Run in the project's root:
--   ches --model <model.gguf> -f examples/quickstart.sql

-- Score every pair, one pass of the model each.
CREATE TABLE scored AS
SELECT id, category,
       ches(prompt, chosen, rejected) AS ches,
       ches_normalized(prompt, chosen, rejected) AS ches_normalized
FROM 'examples/data/preferences.parquet';

-- The pairs most likely to displace the likelihood of their chosen response.
SELECT id, category, round(ches_normalized, 1) AS score, round(ches, 0) AS ches
FROM scored
ORDER BY ches_normalized DESC NULLS LAST
LIMIT 20;

-- How the score is distributed, and where each kind of pair lies.
SELECT round(percentile_cont(0.05) WITHIN GROUP (ORDER BY ches_normalized), 1) AS p05,
       round(percentile_cont(0.25) WITHIN GROUP (ORDER BY ches_normalized), 1) AS p25,
       round(percentile_cont(0.50) WITHIN GROUP (ORDER BY ches_normalized), 1) AS p50,
       round(percentile_cont(0.75) WITHIN GROUP (ORDER BY ches_normalized), 1) AS p75,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY ches_normalized), 1) AS p95
FROM scored;

SELECT category, count(*) AS pairs, round(median(ches_normalized), 1) AS median_score
FROM scored
GROUP BY category
ORDER BY median_score DESC NULLS LAST;

-- Drop the top tenth, write the rest.
COPY (
  SELECT id, category, prompt, chosen, rejected
  FROM (
    SELECT pairs.*, ches_normalized
    FROM 'examples/data/preferences.parquet' AS pairs JOIN scored ON pairs.id = scored.id
    WHERE ches_normalized IS NOT NULL
  )
  QUALIFY percent_rank() OVER (ORDER BY ches_normalized) < 0.9
) TO 'target/preferences_kept.parquet' STORED AS PARQUET;
