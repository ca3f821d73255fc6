import sys
sys.path.insert(0, "drafts/42")
import dsl
import part1, part2, part3, part4
dsl.write("./notebooks/42_attention.ipynb", "attention", "./notebooks/31_recurrence.ipynb")
