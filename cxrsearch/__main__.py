from cxrsearch.cli import main

main()
