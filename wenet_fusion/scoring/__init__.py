"""Error rates of transcripts and errors of word times: alignments, confidence intervals, emission delays."""
