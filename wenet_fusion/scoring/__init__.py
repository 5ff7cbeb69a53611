"""Error rates of transcripts: words or characters, alignments, confidence intervals."""
