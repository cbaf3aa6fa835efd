"""Is a suspect a copy of the watermarked model? Measurement, statistics, and the decision rule."""
