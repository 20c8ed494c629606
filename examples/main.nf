// nextflow run main.nf --scans '/my/scans/*.nii.gz' --out /my/out [--per_job 20] [--options '--lambda 1'] [-resume]
//
// Each task takes several scans and loads the network once. Names of scans must differ, because they name the results.

nextflow.enable.dsl = 2

params.scans   = 'scans/*.nii.gz'
params.out     = 'out'
params.per_job = 20
params.options = ''

process NEURALPREP {
    tag "${scans instanceof List ? scans.size() : 1} scans"
    publishDir params.out, mode: 'copy', saveAs: { name -> name.replaceFirst('^results/', '') }
    cpus 2
    memory '3 GB'

    input:
    path scans, stageAs: 'scans/*'

    output:
    path 'results/*', type: 'dir', optional: true, emit: folders
    path 'results/*.error.txt', optional: true, emit: faults
    path "status-${task.index}.tsv", emit: table

    script:
    // exit code 1 means that a scan failed, which its row in the table says
    """
    neuralprep run scans results --threads ${task.cpus} --quiet ${params.options} || [ \$? -eq 1 ]
    cp results/status.tsv status-${task.index}.tsv
    """
}

workflow {
    scans = Channel.fromPath(params.scans, checkIfExists: true)
    NEURALPREP(scans.collate(params.per_job as int))
}
