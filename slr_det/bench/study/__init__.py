"""Studies: pruning methods compared under rules that give none of them an advantage."""
