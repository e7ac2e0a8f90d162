"""Names that options, data and reports share; this file imports nothing."""

# The bundles of Lizarraga et al. (2023, section 3): those of TractoInferno with 1000 streamlines or
# more in most people.
BUNDLES = (
    "MCP",
    "FPT_L",
    "FPT_R",
    "ILF_L",
    "ILF_R",
    "IFOF_L",
    "IFOF_R",
    "POPT_L",
    "POPT_R",
    "PYT_L",
    "PYT_R",
    "CC_Fr_1",
)
