"""Why a number differs from ServiceTitan: exports compared row by row, definitions found, observed numbers kept."""
